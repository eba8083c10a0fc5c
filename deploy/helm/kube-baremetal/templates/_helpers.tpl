{{- define "kbm.labels" -}}
app.kubernetes.io/name: kube-baremetal
app.kubernetes.io/part-of: kube-baremetal
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "kbm.selector" -}}
app.kubernetes.io/name: kube-baremetal
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "kbm.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- /* What both roles must agree on. */ -}}
{{- define "kbm.settings" -}}
KBM_LOG: {{ .Values.log | quote }}
KBM_SERVERS: {{ join "," .Values.servers | quote }}
KBM_NETBOOT_NAMESPACE: {{ .Values.netboot.namespace | quote }}
KBM_UNACCEPTED: {{ .Values.unaccepted | quote }}
KBM_LOCAL_BOOT_CONFIRMED_AFTER: {{ .Values.localBootConfirmedAfter | quote }}
KBM_ALLOW_ASSERTED_IDENTITY: {{ .Values.allowAssertedIdentity | quote }}
KBM_WITH_IMAGE_STORE: {{ .Values.imageStore.enabled | quote }}
{{- end }}

{{- define "kbm.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: monitor}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /healthz, port: monitor}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: monitor}
  periodSeconds: 5
{{- end }}
