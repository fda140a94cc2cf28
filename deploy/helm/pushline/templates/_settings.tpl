{{/* What the chart reads in the configuration, as JSON, so that no value has to repeat it. */}}

{{/* Seconds of a duration such as "90s", rounded up. */}}
{{- define "pushline.seconds" -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $number := regexFind "^[0-9]+" . | default "0" | int64 -}}
{{- if eq $unit "ms" -}}
{{ div (add $number 999) 1000 }}
{{- else -}}
{{ mul $number (index (dict "s" 1 "m" 60 "h" 3600 "d" 86400 "" 1) $unit | default 1) }}
{{- end -}}
{{- end -}}

{{/* The configuration as a tree; with the key Error if it can't be read. */}}
{{- define "pushline.config" -}}
{{ .Values.config | fromToml | toJson }}
{{- end -}}

{{/*
kind, partitions, topicPrefix; listeners: port, host, tls, proxyProtocol; drain, grace: seconds; kafkaPorts; allow; proxy; hasBrokers.
*/}}
{{- define "pushline.settings" -}}
{{- $config := include "pushline.config" . | fromJson -}}
{{- $queue := $config.queue | default dict -}}
{{- $kafka := $queue.kafka | default dict -}}
{{- $mqtt := $config.mqtt | default dict -}}
{{- $egress := $config.egress | default dict -}}
{{- $named := or (hasKey $mqtt "listener") (hasKey $mqtt "listeners") (not (empty $mqtt.brokers)) -}}
{{- $listeners := list -}}
{{- $drain := 0 -}}
{{- range concat (hasKey $mqtt "listener" | ternary (list $mqtt.listener) list) ($mqtt.listeners | default list) ($named | ternary list (list dict)) -}}
  {{- $address := .address | default "127.0.0.1:1883" -}}
  {{- $port := regexFind "[0-9]+$" $address | int -}}
  {{- $listeners = append $listeners (dict "port" $port "host" (regexReplaceAll ":[0-9]+$" $address "") "tls" (hasKey . "tls") "proxyProtocol" (not (empty .proxy_protocol))) -}}
  {{- $drain = max $drain (include "pushline.seconds" (.drain | default "5s") | int) -}}
{{- end -}}
{{- $ports := list -}}
{{- range splitList "," ($kafka.brokers | default "") -}}
  {{- with regexFind "[0-9]+$" (trim .) -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- end -}}
{{- dict
  "kind" ($queue.kind | default "embedded")
  "partitions" ($kafka.partitions | default 16 | int)
  "topicPrefix" ($kafka.topic_prefix | default "pushline")
  "listeners" $listeners
  "oneListenerByEnvironment" (or (hasKey $mqtt "listener") (not $named))
  "drain" $drain
  "grace" (include "pushline.seconds" ($config.shutdown_grace | default "10s") | int)
  "kafkaPorts" ($ports | uniq)
  "allow" ($egress.allow | default list)
  "proxy" (($egress.proxy | default dict).url | default "")
  "hasBrokers" (not (empty $mqtt.brokers))
  | toJson -}}
{{- end -}}

{{/*
Seconds from the decision to stop a pod to SIGKILL: preStop, then connections that close (drain, and 6 s for their last packets), messages in flight
(shutdown_grace), the last checkpoint, and the queue (10 s).
*/}}
{{- define "pushline.terminationGrace" -}}
{{- $settings := include "pushline.settings" . | fromJson -}}
{{ add .Values.preStopSeconds $settings.drain $settings.grace 20 }}
{{- end -}}

{{/*
A hash of what a running process can't take over: everything but webhooks and groups, and for deliver everything but [mqtt] too: {root, role}. A change of it
restarts the pods.
*/}}
{{- define "pushline.restartHash" -}}
{{- $reloaded := list "webhooks" "groups" -}}
{{- if eq .role "deliver" -}}{{- $reloaded = append $reloaded "mqtt" -}}{{- end -}}
{{- $config := include "pushline.config" .root | fromJson -}}
{{- range $reloaded -}}{{- $_ := unset $config . -}}{{- end -}}
{{ $config | toJson | sha256sum }}
{{- end -}}
