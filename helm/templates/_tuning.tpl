{{/* Where the chart's own database and broker are; the empty text where they are somebody else's, or tuning is off. */}}
{{- define "trimtab.ownDatabase" -}}
{{- if and .Values.tuning.enabled (not .Values.tuning.database.urlSecret.name) -}}
{{ include "trimtab.fullname" . }}-postgres
{{- end -}}
{{- end -}}

{{- define "trimtab.ownBroker" -}}
{{- if and .Values.tuning.enabled (not .Values.tuning.broker.urlSecret.name) -}}
{{ include "trimtab.fullname" . }}-redis
{{- end -}}
{{- end -}}

{{/* The Secret with the passwords of those two. */}}
{{- define "trimtab.passwordSecret" -}}
{{ .Values.tuning.passwordSecret | default (printf "%s-tuning" (include "trimtab.fullname" .)) }}
{{- end -}}

{{- define "trimtab.databaseEnv" -}}
{{- if include "trimtab.ownDatabase" . }}
- name: DATABASE_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "trimtab.passwordSecret" . }}, key: postgresql-password}}
- name: TRIMTAB_DATABASE_URL
  value: postgresql://trimtab:$(DATABASE_PASSWORD)@{{ include "trimtab.ownDatabase" . }}.{{ .Release.Namespace }}.svc:5432/trimtab
{{- else if .Values.tuning.enabled }}
- name: TRIMTAB_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.tuning.database.urlSecret.name }}, key: {{ .Values.tuning.database.urlSecret.key }}}}
{{- end }}
{{- end -}}

{{- define "trimtab.brokerEnv" -}}
{{- if include "trimtab.ownBroker" . }}
- name: BROKER_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "trimtab.passwordSecret" . }}, key: redis-password}}
- name: TRIMTAB_BROKER_URL
  value: redis://:$(BROKER_PASSWORD)@{{ include "trimtab.ownBroker" . }}.{{ .Release.Namespace }}.svc:6379/0
{{- else }}
- name: TRIMTAB_BROKER_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.tuning.broker.urlSecret.name }}, key: {{ .Values.tuning.broker.urlSecret.key }}}}
{{- end }}
{{- end -}}

{{/* The container of a worker. Call with (list $ "tuning-driver" "driver" .Values.tuning.driver): component, role, values. */}}
{{- define "trimtab.workerContainer" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
image: {{ include "trimtab.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: [worker, {{ index . 2 }}]
{{ include "trimtab.confined" $root }}
resources:
  {{- toYaml (index . 3).resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
ports:
  - {name: http, containerPort: 8080}
{{ include "trimtab.probes" $root }}
env:
  {{- include "trimtab.commonEnv" $root | nindent 2 }}
  - name: TRIMTAB_PORT
    value: "8080"
  {{- include "trimtab.databaseEnv" $root | nindent 2 }}
  {{- include "trimtab.brokerEnv" $root | nindent 2 }}
{{- end -}}

{{/* The container of the chart's database or broker. Call with (list $ "postgres" .Values.tuning.database):
component, which names its script as well, and values. */}}
{{- define "trimtab.serverContainer" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
name: {{ $name }}
image: {{ (index . 2).image | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command: [/bin/sh, -euc]
args:
  - |
    {{- $root.Files.Get (printf "files/tuning/%s.sh" $name) | nindent 4 }}
{{ include "trimtab.confined" $root }}
resources:
  {{- toYaml (index . 2).resources | nindent 2 }}
{{- end -}}

{{/* The way to a server: the chart's own pod, or any address on its port. Call with (list $ component ownName ownPort port). */}}
{{- define "trimtab.egressTo" -}}
{{- $root := index . 0 -}}
{{- if index . 2 -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "trimtab.selector" (list $root (index . 1)) | nindent 10 }}
  ports:
    - {port: {{ index . 3 }}, protocol: TCP}
{{- else -}}
- ports:
    - {port: {{ index . 4 }}, protocol: TCP}
{{- end }}
{{- end -}}
