{{/* Where Triton's models lie. */}}

{{/* Which kind of volume holds them; empty: the image alone. The claim is the default, so any other kind goes before. */}}
{{- define "llm-router.modelVolume" -}}
{{- $models := .Values.routerServer.volumes.modelRepository -}}
{{- $kinds := list -}}
{{- if $models.enabled -}}
{{- range list "nfs" "emptyDir" "hostPath" "persistentVolumeClaim" -}}
{{- if (get $models.storage .).enabled }}{{ $kinds = append $kinds . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $kinds }}{{ first . }}{{ end -}}
{{- end }}

{{- define "llm-router.claimName" -}}
{{- .Values.routerServer.volumes.modelRepository.storage.persistentVolumeClaim.existingClaim | default (printf "%s-router-server-model-repo" (include "llm-router.fullname" .)) -}}
{{- end }}

{{/* "true" when nothing can be written to the volume: then nothing is seeded either. */}}
{{- define "llm-router.modelsReadOnly" -}}
{{- $storage := .Values.routerServer.volumes.modelRepository.storage -}}
{{- $kind := include "llm-router.modelVolume" . -}}
{{- if eq $kind "nfs" }}{{ $storage.nfs.readOnly }}{{ end -}}
{{- if eq $kind "persistentVolumeClaim" }}{{ eq $storage.persistentVolumeClaim.accessMode "ReadOnlyMany" }}{{ end -}}
{{- end }}

{{/* The folder that Triton serves. Without a volume the default path means the image's own models. */}}
{{- define "llm-router.modelRepository" -}}
{{- $path := .Values.routerServer.modelRepository.path -}}
{{- if and (not (include "llm-router.modelVolume" .)) (has $path (list "/model_repository" "/model_repository/routers")) -}}
/opt/router/model_repository
{{- else -}}
{{ $path }}
{{- end -}}
{{- end }}

{{/* The source of the volume `model-repository`. */}}
{{- define "llm-router.modelVolumeSource" -}}
{{- $storage := .Values.routerServer.volumes.modelRepository.storage -}}
{{- $kind := include "llm-router.modelVolume" . -}}
{{- if eq $kind "persistentVolumeClaim" -}}
persistentVolumeClaim:
  claimName: {{ include "llm-router.claimName" . }}
{{- else if eq $kind "nfs" -}}
nfs:
  server: {{ $storage.nfs.server }}
  path: {{ $storage.nfs.path }}
  readOnly: {{ $storage.nfs.readOnly }}
{{- else if eq $kind "hostPath" -}}
hostPath:
  path: {{ $storage.hostPath.path }}
{{- else if $storage.emptyDir.sizeLimit -}}
emptyDir:
  sizeLimit: {{ $storage.emptyDir.sizeLimit }}
{{- else -}}
emptyDir: {}
{{- end -}}
{{- end }}
