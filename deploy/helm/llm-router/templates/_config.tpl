{{/* The gateway's config.yaml, unless a ConfigMap of the user's holds it. */}}
{{- define "llm-router.config" -}}
{{- $config := .Values.routerController.config -}}
{{- if $config.customConfig -}}
{{ $config.customConfig }}
{{- else if $config.policies -}}
{{ toYaml (dict "policies" $config.policies) }}
{{- else -}}
default_policy: task_router
policies:
  {{- include "llm-router.policy" (list . "task") | nindent 2 }}
  {{- include "llm-router.policy" (list . "complexity") | nindent 2 }}
{{- end }}
{{- end }}

{{/* The policies' snapshots, as entries of the ConfigMap beside config.yaml. */}}
{{- define "llm-router.snapshots" -}}
{{- range $name, $snapshot := .Values.routerController.config.snapshots }}
{{ $name }}: {{ kindIs "string" $snapshot | ternary $snapshot (toJson $snapshot) | toJson }}
{{- end }}
{{- end }}

{{/* Of (list $ "task" or "complexity"): one policy out of config.models and config.apiBase. */}}
{{- define "llm-router.policy" -}}
{{- $root := first . -}}
{{- $kind := last . -}}
{{- $config := $root.Values.routerController.config -}}
{{- $labels := get (fromYaml (include "llm-router.labelsOfModels" $root)) $kind -}}
- name: {{ $kind }}_router
  url: http://{{ include "llm-router.fullname" $root }}-router-server:8000/v2/models/{{ $kind }}_router_ensemble/infer
  llms:
    {{- range $pair := $labels }}
    {{- range $label, $model := $pair }}
    - name: {{ $label }}
      {{- if $config.apiBase }}
      api_base: {{ $config.apiBase | quote }}
      api_key: ${NVIDIA_API_KEY:-}
      {{- else }}
      api_base: ${DYNAMO_API_BASE}
      api_key: ${DYNAMO_API_KEY:-}
      {{- end }}
      model: {{ get $config.models $model | quote }}
    {{- end }}
    {{- end }}
{{- end }}

{{/* Which label each key of config.models is for. */}}
{{- define "llm-router.labelsOfModels" -}}
task:
  - Code Generation: codeGeneration
  - Brainstorming: brainstorming
  - Chatbot: chatbot
  - Summarization: summarization
  - Open QA: openQA
  - Closed QA: closedQA
  - Classification: classification
  - Extraction: extraction
  - Rewrite: rewrite
  - Text Generation: textGeneration
  - Other: other
  - Unknown: unknown
complexity:
  - Creativity: creativity
  - Reasoning: reasoning
  - Contextual-Knowledge: contextualKnowledge
  - Few-Shot: fewShot
  - Domain-Knowledge: domainKnowledge
  - No-Label-Reason: noLabelReason
  - Constraint: constraint
{{- end }}
