{{/* Names and labels. A component is router-server, router-controller or test. */}}

{{/* The chart's name in a release's name is not said twice. */}}
{{- define "llm-router.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $whole := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $whole | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "llm-router.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "llm-router.fullname" .) "default") -}}
{{- end }}

{{/* Of (list $ component). */}}
{{- define "llm-router.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Of (list $ component). */}}
{{- define "llm-router.labels" -}}
{{- $root := first . -}}
{{ include "llm-router.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of what belongs to no component. */}}
{{- define "llm-router.commonLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of (list $ image): the registry comes as a prefix with its slash. */}}
{{- define "llm-router.image" -}}
{{- $image := last . -}}
{{ (first .).Values.global.imageRegistry }}{{ $image.repository }}:{{ $image.tag }}
{{- end }}
