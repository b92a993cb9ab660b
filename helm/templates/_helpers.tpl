{{/* Name of everything in this release: the release's own name, marked as Trimtab's. */}}
{{- define "trimtab.fullname" -}}
{{- if contains "trimtab" .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-trimtab" (.Release.Name | trunc 35 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels pods are selected by. Call with (list $ "operator"). The API finds its own replicas by name and component. */}}
{{- define "trimtab.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: trimtab
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object. Call with (list $ "operator"). */}}
{{- define "trimtab.labels" -}}
{{- $root := index . 0 -}}
{{ include "trimtab.selector" . }}
app.kubernetes.io/part-of: trimtab
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "trimtab.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end -}}

{{/* What every pod shares. Call with (list $ "operator" .Values.operator 65532): component, its values, its account's number. */}}
{{- define "trimtab.podBase" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $own := index . 2 -}}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "trimtab.selector" (list $root $component) | nindent 8 }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ index . 3 }}
  runAsGroup: {{ index . 3 }}
  fsGroup: {{ index . 3 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What the pods of operator and API share, above their containers. Call with (list $ "operator"). */}}
{{- define "trimtab.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
serviceAccountName: {{ include "trimtab.fullname" $root }}-{{ $component }}
automountServiceAccountToken: true
{{ include "trimtab.podBase" (list $root $component (index $root.Values $component) 65532) }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
{{- with $root.Values.planner.calibration.configMap }}
  # Optional: it may be made, changed and deleted while the pods run, and they follow.
  - name: calibration
    configMap: {name: {{ . }}, optional: true}
{{- end }}
{{- end -}}

{{/* What no container of ours may do. */}}
{{- define "trimtab.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the containers of operator and API share. Call with (list $ "operator"). */}}
{{- define "trimtab.container" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
name: {{ $component }}
image: {{ include "trimtab.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: [{{ $component }}]
{{ include "trimtab.confined" $root }}
resources:
  {{- toYaml (index $root.Values $component).resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- if $root.Values.planner.calibration.configMap }}
  - {name: calibration, mountPath: /etc/trimtab/calibration, readOnly: true}
{{- end }}
{{ include "trimtab.probes" $root }}
{{- end -}}

{{/* Probes of the processes that serve /healthz and /readyz. */}}
{{- define "trimtab.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end -}}

{{- define "trimtab.commonEnv" -}}
- name: TRIMTAB_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: TRIMTAB_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: TRIMTAB_HOST
  value: 0.0.0.0
- name: TRIMTAB_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: TRIMTAB_LOG_FORMAT
  value: {{ .Values.logFormat }}
- name: HOME
  value: /tmp
{{- end -}}

{{- define "trimtab.calibrationEnv" -}}
{{- if .Values.planner.calibration.configMap }}
- name: TRIMTAB_CALIBRATION
  value: /etc/trimtab/calibration
{{- end }}
{{- end -}}
