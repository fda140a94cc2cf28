{{/* Everything that no schema can see. All mistakes are reported at once, each as a sentence with the remedy. */}}

{{/* Paths of passwords that stand in the configuration itself, as JSON: {tree, path}. Secrets belong into files. */}}
{{- define "pushline.inlineSecrets" -}}
{{- $found := list -}}
{{- $path := .path -}}
{{- if kindIs "map" .tree -}}
  {{- range $key, $value := .tree -}}
    {{- $here := trimPrefix "." (printf "%s.%s" $path $key) -}}
    {{- $isHeader := hasSuffix ".headers" $path -}}
    {{- $secret := has $key (list "password" "token" "key" "client_secret" "secret" "secrets" "sasl.password" "ssl.key.password" "ssl.key.pem" "ssl.keystore.password" "sasl.oauthbearer.client.secret") -}}
    {{- $credential := has (lower $key) (list "authorization" "authentication" "proxy-authorization" "x-api-key" "cookie") -}}
    {{- if $isHeader -}}
      {{- if $credential -}}{{- $found = append $found $here -}}{{- end -}}
    {{- else if and $secret (not (kindIs "map" $value)) -}}
      {{- $found = append $found $here -}}
    {{- else -}}
      {{- $found = concat $found (include "pushline.inlineSecrets" (dict "tree" $value "path" $here) | fromJsonArray) -}}
    {{- end -}}
  {{- end -}}
{{- else if kindIs "slice" .tree -}}
  {{- range $index, $value := .tree -}}
    {{- $found = concat $found (include "pushline.inlineSecrets" (dict "tree" $value "path" (printf "%s[%d]" $path $index)) | fromJsonArray) -}}
  {{- end -}}
{{- end -}}
{{ $found | toJson }}
{{- end -}}

{{- define "pushline.check" -}}
{{- $config := include "pushline.config" . | fromJson -}}
{{- if hasKey $config "Error" -}}
  {{- fail (printf "\nconfig isn't TOML: %s" $config.Error) -}}
{{- end -}}
{{- $mistakes := concat
  (include "pushline.checkMode" . | fromJsonArray)
  (include "pushline.checkConfig" (dict "root" . "config" $config) | fromJsonArray)
  (include "pushline.checkListeners" . | fromJsonArray)
  (include "pushline.checkScaling" . | fromJsonArray)
  (include "pushline.checkNetwork" . | fromJsonArray)
  (include "pushline.checkObjects" . | fromJsonArray)
  (include "pushline.checkVolume" . | fromJsonArray) -}}
{{- if $mistakes -}}{{- fail (printf "\n%s" (join "\n" $mistakes)) -}}{{- end -}}
{{- end -}}

{{- define "pushline.checkMode" -}}
{{- $settings := include "pushline.settings" . | fromJson -}}
{{- $mistakes := list -}}
{{- if and (eq .Values.mode "box") (ne $settings.kind "embedded") -}}
  {{- $mistakes = append $mistakes (printf "mode is \"box\" and config has [queue] kind = %q: set mode: cluster, or kind = \"embedded\"" $settings.kind) -}}
{{- end -}}
{{- if and (eq .Values.mode "cluster") (ne $settings.kind "kafka") -}}
  {{- $mistakes = append $mistakes (printf "mode is \"cluster\" and config has [queue] kind = %q: set mode: box, or kind = \"kafka\" with [queue.kafka] brokers" $settings.kind) -}}
{{- end -}}
{{- if and (eq .Values.mode "cluster") (eq $settings.kind "kafka") (not $settings.kafkaPorts) -}}
  {{- $mistakes = append $mistakes "config has no [queue.kafka] brokers with a port: write brokers = \"host:9092\"" -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}

{{- define "pushline.checkConfig" -}}
{{- $values := .root.Values -}}
{{- $mistakes := list -}}
{{- if gt (len $values.config) 614400 -}}
  {{- $mistakes = append $mistakes (printf "config has %d KiB, and the chart takes 600: a ConfigMap and Helm's own record of a release hold 1 MiB each. Put the file into a volume, and name it in configFrom" (div (len $values.config) 1024)) -}}
{{- end -}}
{{- range list (list "queue" "dir" "the volume is mounted at /var/lib/pushline") (list "metrics" "address" "it follows from bindAddress") (list "runtime" "threads" "it is the value threads") -}}
  {{- if hasKey (index $.config (index . 0) | default dict) (index . 1) -}}
    {{- $mistakes = append $mistakes (printf "config sets [%s] %s, which the chart sets: remove it; %s" (index . 0) (index . 1) (index . 2)) -}}
  {{- end -}}
{{- end -}}
{{- $secrets := include "pushline.inlineSecrets" (dict "tree" .config "path" "") | fromJsonArray -}}
{{- if and $secrets (ne $values.configKind "Secret") -}}
  {{- $mistakes = append $mistakes (printf "config holds secrets (%s), and a ConfigMap hides nothing: name a file (password_file = \"…\") and list its Secret in files, or set configKind: Secret" (join ", " $secrets)) -}}
{{- end -}}
{{- if gt (len $values.configFrom) 1 -}}
  {{- $mistakes = append $mistakes "configFrom names more than one place: keep one of secret, configMap and volume" -}}
{{- end -}}
{{- if and (hasKey $values.configFrom "volume") (or $values.files $values.certificate.enabled) -}}
  {{- $mistakes = append $mistakes "configFrom.volume has the whole folder, so files and certificate can't add to it: put them into the volume, or use configFrom.secret" -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}

{{- define "pushline.checkListeners" -}}
{{- $settings := include "pushline.settings" . | fromJson -}}
{{- $mistakes := list -}}
{{- $ports := list -}}
{{- range $index, $listener := $settings.listeners -}}
  {{- $port := int $listener.port -}}
  {{- $ports = append $ports (toString $port) -}}
  {{- $byEnvironment := and $settings.oneListenerByEnvironment (eq $index 0) -}}
  {{- if and (not $byEnvironment) (or (hasPrefix "127." $listener.host) (eq $listener.host "[::1]")) -}}
    {{- $mistakes = append $mistakes (printf "a listener of config has the address %s:%d, which no device can reach in a pod: write 0.0.0.0:%d" $listener.host $port $port) -}}
  {{- end -}}
  {{- if and $.Values.service.proxyProtocol (not $listener.proxyProtocol) -}}
    {{- $mistakes = append $mistakes (printf "service.proxyProtocol is true, and the listener on port %d would take the header for MQTT: give it proxy_protocol = [\"…\"] with the load balancer's ranges" $port) -}}
  {{- end -}}
  {{- if eq $port 9091 -}}
    {{- $mistakes = append $mistakes "a listener of config has port 9091, where metrics and health are: choose another port" -}}
  {{- end -}}
{{- end -}}
{{- range $port, $_ := .Values.service.ports -}}
  {{- if not (has $port $ports) -}}
    {{- $mistakes = append $mistakes (printf "service.ports names %s, and config has no listener on it (only on %s)" $port (join ", " $ports)) -}}
  {{- end -}}
{{- end -}}
{{- if and $settings.hasBrokers (eq .Values.mode "cluster") (ne .Values.ingest.kind "StatefulSet") -}}
  {{- $mistakes = append $mistakes "config has [[mqtt.brokers]], and a broker keeps a session for each pod's name: set ingest.kind: StatefulSet, whose names stay" -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}

{{- define "pushline.checkScaling" -}}
{{- $settings := include "pushline.settings" . | fromJson -}}
{{- $mistakes := list -}}
{{- if eq .Values.mode "cluster" -}}
  {{- $partitions := int $settings.partitions -}}
  {{- $deliver := .Values.deliver -}}
  {{- if gt (int $deliver.replicas) $partitions -}}
    {{- $mistakes = append $mistakes (printf "deliver.replicas is %d, and config has %d partitions: the others would be idle" (int $deliver.replicas) $partitions) -}}
  {{- end -}}
  {{- if ne $deliver.autoscaling.kind "none" -}}
    {{- if gt (int $deliver.autoscaling.maxReplicas) $partitions -}}
      {{- $mistakes = append $mistakes (printf "deliver.autoscaling.maxReplicas is %d, and config has %d partitions: the others would be idle" (int $deliver.autoscaling.maxReplicas) $partitions) -}}
    {{- end -}}
    {{- $most := int $deliver.autoscaling.maxReplicas | default $partitions -}}
    {{- if gt (int $deliver.autoscaling.minReplicas) (int $most) -}}
      {{- $mistakes = append $mistakes (printf "deliver.autoscaling.minReplicas is %d, more than the %d that there may be" (int $deliver.autoscaling.minReplicas) (int $most)) -}}
    {{- end -}}
  {{- end -}}
  {{- if and (eq $deliver.autoscaling.kind "keda") (not $deliver.autoscaling.keda.serverAddress) -}}
    {{- $mistakes = append $mistakes "deliver.autoscaling.kind is keda without a Prometheus to ask: set deliver.autoscaling.keda.serverAddress" -}}
  {{- end -}}
  {{- if and (eq .Values.ingest.autoscaling.kind "hpa") (gt (int .Values.ingest.autoscaling.minReplicas) (int .Values.ingest.autoscaling.maxReplicas)) -}}
    {{- $mistakes = append $mistakes "ingest.autoscaling.minReplicas is more than maxReplicas" -}}
  {{- end -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}

{{- define "pushline.checkNetwork" -}}
{{- $settings := include "pushline.settings" . | fromJson -}}
{{- $policy := .Values.networkPolicy -}}
{{- $mistakes := list -}}
{{- if $policy.enabled -}}
  {{- if and (eq .Values.mode "cluster") (not $policy.kafkaTo) -}}
    {{- $mistakes = append $mistakes "networkPolicy is enabled and would cut off Kafka, whose brokers have names: list its pods or ranges in networkPolicy.kafkaTo" -}}
  {{- end -}}
  {{- if and $settings.hasBrokers (not $policy.mqttBrokersTo) -}}
    {{- $mistakes = append $mistakes "networkPolicy is enabled and would cut off [[mqtt.brokers]]: list their pods or ranges in networkPolicy.mqttBrokersTo" -}}
  {{- end -}}
  {{- if and $settings.proxy (not $policy.proxyTo) (not (include "pushline.proxyAddress" $settings.proxy)) -}}
    {{- $mistakes = append $mistakes "networkPolicy is enabled and [egress] proxy has a name: list its pods or ranges in networkPolicy.proxyTo" -}}
  {{- end -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}

{{- define "pushline.checkObjects" -}}
{{- $mistakes := list -}}
{{- if and (or .Values.strimzi.topics .Values.strimzi.users) (ne .Values.mode "cluster") -}}
  {{- $mistakes = append $mistakes "strimzi makes topics and users of Kafka, and mode is \"box\": set mode: cluster, or leave strimzi out" -}}
{{- end -}}
{{- if and (or .Values.strimzi.topics .Values.strimzi.users) (not .Values.strimzi.cluster) -}}
  {{- $mistakes = append $mistakes "strimzi.cluster is missing: the name of the Kafka object" -}}
{{- end -}}
{{- if .Values.certificate.enabled -}}
  {{- if not .Values.certificate.issuerRef.name -}}
    {{- $mistakes = append $mistakes "certificate.issuerRef.name is missing: the issuer of cert-manager" -}}
  {{- end -}}
  {{- if not .Values.certificate.dnsNames -}}
    {{- $mistakes = append $mistakes "certificate.dnsNames is empty: list the names that devices connect to" -}}
  {{- end -}}
  {{- if not (contains "tls/tls.crt" .Values.config) -}}
    {{- $mistakes = append $mistakes "certificate is enabled, and no listener uses it: tls = { cert_file = \"tls/tls.crt\", key_file = \"tls/tls.key\" }" -}}
  {{- end -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}

{{/* What an upgrade would find too late. It sees a cluster only during an installation. */}}
{{- define "pushline.checkVolume" -}}
{{- $mistakes := list -}}
{{- $name := include "pushline.fullname" . -}}
{{- $space := .Release.Namespace -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" $space (printf "data-%s-0" $name) -}}
{{- if and (eq .Values.mode "cluster") $claim (not .Values.abandonBoxVolume) -}}
  {{- $mistakes = append $mistakes (printf "the volume data-%s-0 of a box exists, and a cluster never reads it: settle its backlog first (pushline_queue_unsettled_packets is 0), then set abandonBoxVolume: true" $name) -}}
{{- end -}}
{{- $box := lookup "apps/v1" "StatefulSet" $space $name -}}
{{- if and (eq .Values.mode "box") $box -}}
  {{- $now := (index $box.spec.volumeClaimTemplates 0).spec.resources.requests.storage -}}
  {{- if ne $now .Values.box.volume.size -}}
    {{- $mistakes = append $mistakes (printf "box.volume.size is %s, and the StatefulSet was made with %s, which can't be changed. Enlarge the volume, then let Helm make the StatefulSet again:\n  kubectl --namespace %s patch pvc data-%s-0 --patch '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%s\"}}}}'\n  kubectl --namespace %s delete statefulset %s --cascade=orphan" .Values.box.volume.size $now $space $name .Values.box.volume.size $space $name) -}}
  {{- end -}}
{{- end -}}
{{ $mistakes | toJson }}
{{- end -}}
