{{/* Of (list $ service): "name port" of the Service that `service` of an ingress path means; empty when it is off. */}}
{{- define "llm-router.backend" -}}
{{- $root := first . -}}
{{- $fullname := include "llm-router.fullname" $root -}}
{{- $values := $root.Values -}}
{{- $service := last . -}}
{{- if and (eq $service "router-controller") $values.routerController.enabled -}}
{{ $fullname }}-router-controller {{ int $values.routerController.service.port }}
{{- else if and (eq $service "app") $values.app.enabled $values.routerController.enabled -}}
{{ $fullname }}-app {{ int $values.app.service.port }}
{{- else if and (eq $service "router-server") $values.routerServer.enabled -}}
{{ $fullname }}-router-server {{ include "llm-router.serverHttpPort" $root }}
{{- end -}}
{{- end }}

{{/* The Service's port for HTTP: the one of that name, else the first. */}}
{{- define "llm-router.serverHttpPort" -}}
{{- $http := (first .Values.routerServer.service.ports).port -}}
{{- range .Values.routerServer.service.ports }}{{ if eq .name "http" }}{{ $http = .port }}{{ end }}{{ end -}}
{{ int $http }}
{{- end }}

{{/* "true" when clients outside of the namespace are meant to reach Triton. */}}
{{- define "llm-router.serverExposed" -}}
{{- $exposed := ne .Values.routerServer.service.type "ClusterIP" -}}
{{- if .Values.ingress.enabled -}}
{{- range .Values.ingress.hosts }}{{ range .paths }}
{{- if eq (.service | default "") "router-server" }}{{ $exposed = true }}{{ end -}}
{{- end }}{{ end -}}
{{- end -}}
{{- if and .Values.openshift.enabled .Values.openshift.routes.enabled .Values.openshift.routes.router.enabled }}
{{- $exposed = true -}}
{{- end -}}
{{- if $exposed }}true{{ end -}}
{{- end }}
