{{/* The pod of a role: {root, role, command}. Box, ingest and deliver differ in their command, their ports and the box's volume. */}}

{{- define "pushline.podTemplate" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- include "pushline.roleSelector" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Webhooks, groups and the files beside them are taken over without a restart.
    pushline/restart-hash: {{ include "pushline.restartHash" . }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "pushline.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "pushline.terminationGrace" $root }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if ne .role "box" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "pushline.roleSelector" $ | nindent 10 }}
      {{- if eq $.kind "Deployment" }}
      matchLabelKeys: [pod-template-hash]
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: pushline
      image: {{ include "pushline.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [{{ .command }}, --config, /etc/pushline/pushline.toml, --log-format, json]
      env:
        {{- include "pushline.env" . | nindent 8 }}
      ports:
        {{- if ne .role "deliver" }}
        {{- range (include "pushline.settings" $root | fromJson).listeners }}
        - name: mqtt-{{ .port }}
          containerPort: {{ .port }}
        {{- end }}
        {{- end }}
        - name: metrics
          containerPort: 9091
      # Health is about this process alone: a neighbour or Kafka that is away must not restart it.
      startupProbe:
        httpGet:
          path: /healthz
          port: metrics
        periodSeconds: 2
        # A long log takes its time to be checked: half an hour.
        failureThreshold: 900
      livenessProbe:
        httpGet:
          path: /healthz
          port: metrics
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: metrics
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      {{- if $values.preStopSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $values.preStopSeconds }}
      {{- end }}
      resources:
        {{- include "pushline.resources" . | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        # A folder, never a subPath: Kubernetes doesn't update what is mounted by one.
        - name: config
          mountPath: /etc/pushline
          readOnly: true
        {{- if eq .role "box" }}
        - name: data
          mountPath: /var/lib/pushline
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "pushline.configVolume" $root | nindent 4 }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Configuration and secrets in one volume: when a Secret changes, the kubelet writes the whole folder again, and Pushline reads the file again. */}}
{{- define "pushline.configVolume" -}}
{{- $from := .Values.configFrom -}}
- name: config
  {{- if $from.volume }}
  {{- toYaml $from.volume | nindent 2 }}
  {{- else }}
  projected:
    # 0440
    defaultMode: 288
    sources:
      - {{ include "pushline.configKind" . }}:
          name: {{ $from.secret | default $from.configMap | default (include "pushline.fullname" .) }}
          items:
            - key: pushline.toml
              path: pushline.toml
      {{- with .Values.files }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- if .Values.certificate.enabled }}
      - secret:
          name: {{ include "pushline.fullname" . }}-tls
          items:
            - key: tls.crt
              path: tls/tls.crt
            - key: tls.key
              path: tls/tls.key
      {{- end }}
  {{- end }}
{{- end -}}

{{/* The kind of source that has pushline.toml. */}}
{{- define "pushline.configKind" -}}
{{- if .Values.configFrom.secret -}}secret
{{- else if .Values.configFrom.configMap -}}configMap
{{- else -}}{{ eq .Values.configKind "Secret" | ternary "secret" "configMap" }}
{{- end -}}
{{- end -}}

{{- define "pushline.env" -}}
{{- $values := .root.Values -}}
{{- $settings := include "pushline.settings" .root | fromJson -}}
- name: PUSHLINE_METRICS__ADDRESS
  value: {{ printf "%s:9091" $values.bindAddress | quote }}
- name: PUSHLINE_RUNTIME__THREADS
  value: {{ $values.threads | quote }}
{{- if and (ne .role "deliver") $settings.oneListenerByEnvironment }}
- name: PUSHLINE_MQTT__LISTENER__ADDRESS
  value: {{ printf "%s:%d" $values.bindAddress (int (index $settings.listeners 0).port) | quote }}
{{- end }}
{{- if eq .role "box" }}
- name: PUSHLINE_QUEUE__DIR
  value: /var/lib/pushline
{{- end }}
{{- if $values.strimzi.users }}
- name: PUSHLINE_QUEUE__KAFKA__PROPERTIES__SASL.MECHANISM
  value: SCRAM-SHA-512
- name: PUSHLINE_QUEUE__KAFKA__PROPERTIES__SASL.USERNAME
  value: {{ include "pushline.fullname" .root }}-{{ .role }}
- name: PUSHLINE_QUEUE__KAFKA__PROPERTIES__SASL.PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "pushline.fullname" .root }}-{{ .role }}
      key: password
{{- end }}
{{- with concat $values.extraEnv (index $values .role).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
MiB that a role needs: 96 of its own, its budgets, and 16 KiB for each device. Budgets: 64 not durable (ingest; over Kafka the client holds as much
again), 16 of the log's end (box), 128 of bodies and 64 of records (deliver).
*/}}
{{- define "pushline.memory" -}}
{{- $budgets := index (dict "box" 208 "ingest" 128 "deliver" 192) .role -}}
{{- $devices := eq .role "deliver" | ternary 0 (div (mul .root.Values.devicesPerProcess 16) 1024) -}}
{{ add 96 $budgets $devices }}
{{- end -}}

{{/* The limit is half as much again, in steps of 64 MiB: allocators and TLS need some. CPU has no limit, since throttling costs latency. */}}
{{- define "pushline.resources" -}}
{{- with (index .root.Values .role).resources -}}
{{ toYaml . }}
{{- else -}}
{{- $needed := include "pushline.memory" . | int -}}
requests:
  cpu: 500m
  memory: {{ $needed }}Mi
limits:
  memory: {{ mul (div (add (div (mul $needed 3) 2) 63) 64) 64 }}Mi
{{- end -}}
{{- end -}}
