{{/* What can't be honoured, each with what replaces it, as a list. */}}
{{- define "llm-router.refusals" -}}
{{- $server := .Values.routerServer -}}
{{- $config := .Values.routerController.config -}}
{{- $storage := $server.volumes.modelRepository.storage -}}
{{- $kind := include "llm-router.modelVolume" . -}}
{{- $mountPath := $server.volumes.modelRepository.mountPath -}}
{{- $path := $server.modelRepository.path -}}
{{- $fullname := include "llm-router.fullname" . -}}
{{- if gt (len $fullname) 40 }}
- {{ printf "the name %s is longer than 40 characters, and Kubernetes' names of Services end at 63: set fullnameOverride" $fullname | quote }}
{{- end }}
{{- range $name, $_ := .Values.apiKeys }}
- {{ printf "apiKeys.%s: values are no place for a key, Helm stores them: kubectl create secret generic llm-api-keys --from-literal=%s=…, and remove apiKeys" $name $name | quote }}
{{- end }}
{{- range $cloud, $auth := $server.modelRepository.cloudAuth }}
{{- if $auth.enabled }}
- {{ printf "routerServer.modelRepository.cloudAuth.%s: models are served from a volume, not from a bucket: keep volumes.modelRepository.enabled, and upload them with scripts/push_models" $cloud | quote }}
{{- end }}
{{- end }}
{{- if contains "://" $path }}
- {{ printf "routerServer.modelRepository.path %s: models are served from a volume, not from a bucket: give a folder below %s, and upload them with scripts/push_models" $path $mountPath | quote }}
{{- else if not (hasPrefix "/" $path) }}
- {{ printf "routerServer.modelRepository.path %s: has to begin with /" $path | quote }}
{{- else if and $kind (ne $path $mountPath) (not (hasPrefix (printf "%s/" (trimSuffix "/" $mountPath)) $path)) }}
- {{ printf "routerServer.modelRepository.path %s is not on the volume, which is mounted at %s: give a folder below it, or set volumes.modelRepository.enabled to false" $path $mountPath | quote }}
{{- end }}
{{- $others := list }}
{{- range list "nfs" "emptyDir" "hostPath" }}{{ if (get $storage .).enabled }}{{ $others = append $others . }}{{ end }}{{ end }}
{{- if and $others (and $storage.persistentVolumeClaim.enabled $storage.persistentVolumeClaim.existingClaim) }}
{{- $others = append $others "persistentVolumeClaim.existingClaim" }}
{{- end }}
{{- if gt (len $others) 1 }}
- {{ printf "routerServer.volumes.modelRepository.storage: %s are all given, and models lie in one place: leave one" (join ", " $others) | quote }}
{{- end }}
{{- if and (eq $kind "nfs") (not (and $storage.nfs.server $storage.nfs.path)) }}
- "routerServer.volumes.modelRepository.storage.nfs: server and path are needed"
{{- end }}
{{- if and (eq $kind "hostPath") (not $storage.hostPath.path) }}
- "routerServer.volumes.modelRepository.storage.hostPath: path is needed"
{{- end }}
{{- if not (or $config.existingConfigMap $config.customConfig $config.policies $config.useTemplate) }}
- "routerController.config.useTemplate is false: then existingConfigMap, customConfig or policies is needed"
{{- end }}
{{- if not $config.existingConfigMap }}
{{- $policies := (fromYaml (include "llm-router.config" .)).policies }}
{{- $folder := printf "%s/" (clean $config.mountPath) }}
{{- range (kindIs "slice" $policies | ternary $policies list) }}
{{- if and (kindIs "map" .) (kindIs "string" .snapshot) }}
{{- /* One elsewhere may come with a volume of the user's. */}}
{{- $path := hasPrefix "/" .snapshot | ternary .snapshot (printf "%s%s" $folder .snapshot) | clean }}
{{- $file := trimPrefix $folder $path }}
{{- if and (hasPrefix $folder $path) (not (contains "$" $path)) (not (hasKey ($config.snapshots | default dict) $file)) }}
- {{ printf "policy %s: its snapshot %s is not among routerController.config.snapshots: give the file's content there, under its name" (toString .name) $file | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $hpas := list }}
{{- if and $server.autoscaling.enabled (eq $server.autoscaling.type "hpa") }}{{ $hpas = append $hpas "routerServer" }}{{ end }}
{{- if .Values.routerController.autoscaling.enabled }}{{ $hpas = append $hpas "routerController" }}{{ end }}
{{- if semverCompare "<1.23-0" .Capabilities.KubeVersion.Version }}
{{- $cluster := .Capabilities.KubeVersion.Version }}
{{- range $hpas }}
- {{ printf "%s.autoscaling needs autoscaling/v2, which Kubernetes has from 1.23 on, and this is %s" . $cluster | quote }}
{{- end }}
{{- end }}
{{- range $name := list "routerServer" "routerController" }}
{{- $strategy := (get $.Values $name).strategy }}
{{- $rolling := $strategy.rollingUpdate | default dict }}
{{- if and (eq $strategy.type "RollingUpdate") (has (toString $rolling.maxSurge) (list "0" "0%")) (has (toString $rolling.maxUnavailable) (list "0" "0%")) }}
- {{ printf "%s.strategy.rollingUpdate: maxSurge and maxUnavailable are both 0, and no pod could ever be replaced: give both" $name | quote }}
{{- end }}
{{- $own := eq $name "routerServer" | ternary (list "/dev/shm" "/tmp" "shm" "tmp" "model-repository") (list "/tmp" "tmp" "config" "client-keys") }}
{{- range (get $.Values $name).extraVolumeMounts | default list }}
{{- if has (trimSuffix "/" .mountPath) $own }}
- {{ printf "%s.extraVolumeMounts: %s is the chart's own (shm_size is the size of Triton's /dev/shm): leave it out" $name .mountPath | quote }}
{{- end }}
{{- end }}
{{- range (get $.Values $name).extraVolumes | default list }}
{{- if has .name $own }}
- {{ printf "%s.extraVolumes: the name %s is the chart's own: take another" $name .name | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
- "httpRoute.parentRefs: the Gateway is needed, as - name: my-gateway"
{{- end }}
{{- with .Values.tracing.endpoint }}
{{- if regexMatch "/v1/traces/?$" . }}
- "tracing.endpoint: the path /v1/traces is added to it: leave it out"
{{- end }}
{{- if regexMatch ":4317(/|$)" . }}
- "tracing.endpoint: 4317 is the port of OTLP over gRPC: give that of OTLP over HTTP, mostly 4318"
{{- end }}
{{- end }}
{{- end }}

{{/* What is accepted and has no effect, or is best known, as a list. */}}
{{- define "llm-router.warnings" -}}
{{- $server := .Values.routerServer -}}
{{- $root := . -}}
{{- range list "image" "replicas" "affinity" "strategy" "securityContext" "healthChecks" "resources" "volumes" "env" }}
{{- if hasKey $root.Values.app . }}
- {{ printf "app.%s has no effect: the playground is a page of the gateway, without pods of its own." . | quote }}
{{- end }}
{{- end }}
{{- if hasKey .Values.routerController.config "logLevel" }}
- "routerController.config.logLevel has no effect: the gateway writes one line of JSON for each request."
{{- end }}
{{- if and .Values.routerController.config.existingConfigMap .Values.routerController.config.snapshots }}
- "routerController.config.snapshots has no effect: existingConfigMap holds the snapshots, too."
{{- end }}
{{- $kind := include "llm-router.modelVolume" . }}
{{- if eq $kind "hostPath" }}
- "storage.hostPath: each node has its own models then, and the folder has to be writable for the pod's user."
{{- end }}
{{- if eq $kind "emptyDir" }}
- "storage.emptyDir: models that are uploaded are gone with their pod."
{{- end }}
{{- $most := $server.autoscaling.enabled | ternary $server.autoscaling.maxReplicas $server.replicas | int }}
{{- $claim := $server.volumes.modelRepository.storage.persistentVolumeClaim }}
{{- if and (eq $kind "persistentVolumeClaim") (not $claim.existingClaim) (gt $most 1) (hasPrefix "ReadWriteOnce" $claim.accessMode) }}
- {{ printf "%d replicas share a %s volume: those on a second node will not start. Give a storage class with ReadWriteMany." $most $claim.accessMode | quote }}
{{- end }}
{{- $unavailable := ($server.strategy.rollingUpdate | default dict).maxUnavailable }}
{{- if and (eq $server.strategy.type "RollingUpdate") (has (toString $unavailable) (list "0" "0%")) (or $server.gpu (eq $kind "persistentVolumeClaim")) }}
- "routerServer.strategy: with maxUnavailable 0 the new pod has to start beside the old one, and needs a GPU of its own and, on another node, a volume with ReadWriteMany. Else the rollout waits for ever."
{{- end }}
{{- range $name, $probe := $server.healthChecks }}
{{- if hasPrefix "/v2/health" ((($probe | default dict).httpGet | default dict).path | default "") }}
- {{ printf "routerServer.healthChecks.%s asks Triton's own health, which stays good while a model's dead process fails every request. The chart's own probe is an inference." $name | quote }}
{{- end }}
{{- end }}
{{- $keda := and $server.autoscaling.enabled (eq $server.autoscaling.type "keda") }}
{{- if and (or .Values.serviceMonitor.enabled $keda) .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) }}
- "networkPolicy.metricsFrom is empty: a Prometheus in another namespace can't read Triton's metrics."
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.clientKeys.existingSecret (not .Values.serviceMonitor.bearerTokenSecret) }}
- "serviceMonitor.bearerTokenSecret is empty: with clientKeys the gateway's /metrics asks for one of the keys."
{{- end }}
{{- $gateway := .Values.routerController }}
{{- $routes := and .Values.openshift.enabled .Values.openshift.routes.enabled }}
{{- $exposed := or .Values.ingress.enabled .Values.httpRoute.enabled $routes (ne $gateway.service.type "ClusterIP") }}
{{- if and $exposed $gateway.enabled (not .Values.clientKeys.existingSecret) (not $gateway.managementPort) }}
- "the gateway is reached from outside, and so are its /metrics, /config and /decisions: set clientKeys.existingSecret, or routerController.managementPort to serve them apart."
{{- end }}
{{- if and .Values.httpRoute.enabled (not $gateway.enabled) }}
- "httpRoute has no effect: routerController is not enabled."
{{- end }}
{{- $asked := false }}
{{- range $gateway.env }}{{ if eq .name "TRITON_GRPC_URL" }}{{ $asked = true }}{{ end }}{{ end }}
{{- range $gateway.config.policies }}
{{- $host := regexFind "//[^/:$]+" (.url | default "") | trimPrefix "//" }}
{{- if and $server.enabled (not $asked) $host (not (contains (printf "%s-router-server" (include "llm-router.fullname" $root)) $host)) }}
- {{ printf "policy %s names a Triton of its own, %s, and this release's is asked: set TRITON_GRPC_URL to \"\" in routerController.env to let each policy's url count." (toString .name) $host | quote }}
{{- end }}
{{- end }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}
{{- range .paths }}
{{- if not (include "llm-router.backend" (list $root (.service | default "router-controller"))) }}
- {{ printf "the ingress leaves out %s: its service %s is not enabled." .path (.service | default "router-controller") | quote }}
{{- end }}
{{- if and (contains "(" .path) (not (hasKey $root.Values.ingress.annotations "nginx.ingress.kubernetes.io/rewrite-target")) }}
- {{ printf "the ingress path %s is a pattern, and no rewrite-target annotation takes the prefix away." .path | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
