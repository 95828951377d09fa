{#- A change of slices failed: tell a webhook which minion, which GPUs, and why. Put your own address here. -#}
{%- set change = data["data"] %}
{%- set words = data["id"] ~ ": generation " ~ change["generation"] ~ " " ~ change["result"] %}
tell who is on call:
  runner.http.query:
    - args:
        url: {{ opts.get("gpu_slicing_webhook", "http://127.0.0.1:8080/") | json }}
        method: POST
        data: {{ {"text": words, "errors": change["errors"], "left": change["left"]} | json | json }}
        header_dict: {Content-Type: application/json}
