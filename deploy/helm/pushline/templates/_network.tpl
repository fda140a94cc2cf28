{{/* Which addresses a policy permits. files/egress-ranges.yaml is the egress guard's own table. */}}

{{/* The range of an address: one without a length is a single address. */}}
{{- define "pushline.range" -}}
{{- if contains "/" . -}}{{ . }}{{- else if contains ":" . -}}{{ . }}/128{{- else -}}{{ . }}/32{{- end -}}
{{- end -}}

{{/* The address in a proxy's URL; empty if it has a name. */}}
{{- define "pushline.proxyAddress" -}}
{{- $host := regexReplaceAll ":[0-9]+/?$" (. | trimPrefix "http://" | trimSuffix "/") "" -}}
{{- if regexMatch "^[0-9.]+$" $host -}}{{ $host }}{{- else if hasPrefix "[" $host -}}{{ $host | trimPrefix "[" | trimSuffix "]" }}{{- end -}}
{{- end -}}

{{/* The rule to customers' servers, or to the proxy before them. */}}
{{- define "pushline.egressToWebhooks" -}}
{{- $settings := include "pushline.settings" . | fromJson -}}
{{- $ranges := .Files.Get "files/egress-ranges.yaml" | fromYaml -}}
{{- if $settings.proxy -}}
- to:
    {{- if .Values.networkPolicy.proxyTo }}
    {{- toYaml .Values.networkPolicy.proxyTo | nindent 4 }}
    {{- else }}
    - ipBlock:
        cidr: {{ include "pushline.range" (include "pushline.proxyAddress" $settings.proxy) }}
    {{- end }}
  ports:
    - protocol: TCP
      port: {{ regexFind "[0-9]+$" ($settings.proxy | trimSuffix "/") | default "80" | int }}
{{- else -}}
- to:
    {{- range $ranges.blocks }}
    - ipBlock:
        {{- toYaml . | nindent 8 }}
    {{- end }}
    {{- range $settings.allow }}
    - ipBlock:
        cidr: {{ include "pushline.range" . }}
    {{- end }}
  ports:
    - protocol: TCP
{{- end -}}
{{- end -}}
