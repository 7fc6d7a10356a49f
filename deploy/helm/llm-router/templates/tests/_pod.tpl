{{/* Of (dict "root" $ "of" component "script" text): a pod that runs a script with the standard library alone. */}}
{{- define "llm-router.testPod" -}}
{{- $values := .root.Values -}}
{{- $image := $values.routerController.enabled | ternary $values.routerController.image $values.routerServer.image -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "llm-router.fullname" .root }}-test-{{ .of }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "llm-router.labels" (list .root "test") | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    checkov.io/skip1: CKV_K8S_14=The tested pods' own image
    checkov.io/skip2: CKV_K8S_43=The tested pods' own image
    checkov.io/skip3: CKV_K8S_15=The tested pods' own image
    checkov.io/skip4: CKV_K8S_8=It ends by itself
    checkov.io/skip5: CKV_K8S_9=It ends by itself
    checkov.io/skip6: CKV_K8S_40=openshift.enabled leaves the number to OpenShift
    checkov.io/skip7: CKV2_K8S_6=It listens to nothing, and ends by itself
spec:
  restartPolicy: Never
  {{- include "llm-router.podSpec" (list .root "test" $values.routerController) | nindent 2 }}
  containers:
    - name: test
      image: {{ include "llm-router.image" (list .root $image) }}
      {{- with $image.pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      command: [python3, -c]
      args:
        - |
          {{- .script | nindent 10 }}
      securityContext:
        {{- include "llm-router.securityContext" (list .root $values.routerController.securityContext.container) | nindent 8 }}
      resources:
        limits: {cpu: 500m, memory: 256Mi}
        requests: {cpu: 100m, memory: 256Mi}
      {{- if $values.clientKeys.existingSecret }}
      volumeMounts:
        - name: client-keys
          mountPath: /etc/llm-router/client-keys
          readOnly: true
  volumes:
    - name: client-keys
      secret:
        secretName: {{ $values.clientKeys.existingSecret }}
      {{- end }}
{{- end }}
