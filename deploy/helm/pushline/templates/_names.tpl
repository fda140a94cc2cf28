{{/* What the objects are called, and how they are found. */}}

{{- define "pushline.fullname" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if not (or .Values.fullnameOverride (contains .Chart.Name $name)) -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of every object. No version here: the ones of a volume claim can't be changed. */}}
{{- define "pushline.labels" -}}
{{ include "pushline.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What a workload selects its pods by, which can't be changed. */}}
{{- define "pushline.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The same for a role: {root, role}. */}}
{{- define "pushline.roleSelector" -}}
{{ include "pushline.selector" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* An object's metadata: {root, name, role}. */}}
{{- define "pushline.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "pushline.labels" .root | nindent 2 }}
  {{- with .role }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
{{- end -}}

{{- define "pushline.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "pushline.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "pushline.image" -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* The roles of the mode, with their command. */}}
{{- define "pushline.roles" -}}
{{- if eq .Values.mode "box" -}}
{"box": "run"}
{{- else -}}
{"ingest": "ingest", "deliver": "deliver"}
{{- end -}}
{{- end -}}
