//go:build tools

// Package tools pins the commands that the development cluster builds.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
