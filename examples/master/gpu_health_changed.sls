{#- The status of a GPU or slice changed: tell a webhook of what has failed, and of what is well again. Put your own address here. -#}
{%- if data["status"] in ("failed", "lost", "ok") %}
{%- set words = data["id"] ~ ": " ~ (data["slice"] or data["gpu"]) ~ " is " ~ data["status"] ~ ", was " ~ data["was"] %}
tell who is on call:
  runner.http.query:
    - args:
        url: {{ opts.get("gpu_slicing_webhook", "http://127.0.0.1:8080/") | json }}
        method: POST
        data: {{ {"text": words, "why": data["sentence"], "action": data["action"]} | json | json }}
        header_dict: {Content-Type: application/json}
{%- endif %}
