{{/* Parts of pods. Helm merges maps: what an override says comes in beside our defaults, and has to replace them. */}}

{{/* Of (list ours theirs): one list of variables, in which theirs win and the last of a name counts. */}}
{{- define "llm-router.env" -}}
{{- $named := dict -}}
{{- range last . }}{{ $_ := set $named .name . }}{{ end -}}
{{- $all := list -}}
{{- range first . }}{{ if not (hasKey $named .name) }}{{ $all = append $all . }}{{ end }}{{ end -}}
{{- range last . }}
{{- if hasKey $named .name }}
{{- $all = append $all (get $named .name) -}}
{{- $_ := unset $named .name -}}
{{- end }}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{/* Of (list probe handler), the handler being the default's: another one takes its place. */}}
{{- define "llm-router.probe" -}}
{{- $probe := first . -}}
{{- $ours := last . -}}
{{- range without (list "exec" "httpGet" "tcpSocket" "grpc") $ours -}}
{{- if hasKey $probe . }}{{ $probe = omit $probe $ours }}{{ end -}}
{{- end -}}
{{- toYaml $probe -}}
{{- end }}

{{/* Of (list healthChecks handler). A probe set to null is none. */}}
{{- define "llm-router.probes" -}}
{{- $handler := last . -}}
{{- $probes := dict -}}
{{- range $name, $probe := first . -}}
{{- with $probe }}{{ $_ := set $probes $name (include "llm-router.probe" (list . $handler) | fromYaml) }}{{ end -}}
{{- end -}}
{{- with $probes }}{{ toYaml . }}{{ end -}}
{{- end }}

{{/* Of a strategy: Recreate takes no rollingUpdate. */}}
{{- define "llm-router.strategy" -}}
{{- eq .type "RollingUpdate" | ternary . (omit . "rollingUpdate") | toYaml -}}
{{- end }}

{{/* Of (list $ securityContext). */}}
{{- define "llm-router.securityContext" -}}
{{- $root := first . -}}
{{- $context := last . | default dict -}}
{{- if $root.Values.openshift.enabled }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end }}

{{/* Of (list defaults given). A default of cpu or memory holds when neither requests nor limits name it. Quantities
     come quoted: server-side apply of old API servers takes no number. */}}
{{- define "llm-router.resources" -}}
{{- $defaults := first . -}}
{{- $given := last . -}}
{{- $named := merge (dict) ($given.limits | default dict) ($given.requests | default dict) -}}
{{- $result := dict -}}
{{- range $kind := list "limits" "requests" -}}
{{- $quantities := dict -}}
{{- range $name, $quantity := index $defaults $kind -}}
{{- if not (hasKey $named $name) }}{{ $_ := set $quantities $name $quantity }}{{ end -}}
{{- end -}}
{{- range $name, $quantity := index $given $kind -}}
{{- if not (kindIs "invalid" $quantity) }}{{ $_ := set $quantities $name (toString $quantity) }}{{ end -}}
{{- end -}}
{{- with $quantities }}{{ $_ := set $result $kind . }}{{ end -}}
{{- end -}}
{{- toYaml (merge $result (omit $given "limits" "requests")) -}}
{{- end }}

{{/* Of (list $ component affinity): the component's own, else the top level's, else apart from its own kind. */}}
{{- define "llm-router.affinity" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with index . 2 | default $root.Values.affinity -}}
{{- toYaml . -}}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "llm-router.selectorLabels" (list $root $component) | nindent 12 }}
{{- end -}}
{{- end }}

{{/* Of (list $ component values): what the pods of both components have in common. */}}
{{- define "llm-router.podSpec" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
serviceAccountName: {{ include "llm-router.serviceAccountName" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "llm-router.securityContext" (list $root $values.securityContext.pod) | nindent 2 }}
affinity:
  {{- include "llm-router.affinity" (list $root (index . 1) $values.affinity) | nindent 2 }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
