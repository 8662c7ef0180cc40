"""The page `/docs`: every route with an example to try, without anything from other computers."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

# Nothing but the page itself and the server that it came from; the texts of the description are never read as HTML.
POLICY = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>ChatGLM-6B</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
textarea, .answer { width: 100%; box-sizing: border-box; font: 14px/1.4 ui-monospace, monospace }
details { border-top: 1px solid #8884; padding: .5rem 0 } summary { cursor: pointer }
code { font-weight: 600 } .fields { font-size: 14px }
</style></head><body><h1>ChatGLM-6B</h1><pre id="about"></pre>
<p><label>API key · 密钥 <input id="key" type="password" autocomplete="off"></label>
<a href="openapi.json">openapi.json</a>
<div id="routes"></div>
<script>
const make = (name, text = "", more = {}) => Object.assign(document.createElement(name), {textContent: text}, more)
const schemaOf = (all, operation) => {
  const schema = operation.requestBody?.content["application/json"]?.schema ?? {}
  return schema.$ref ? all.components.schemas[schema.$ref.split("/").pop()] : schema
}
async function send(method, path, body, answer) {
  const key = document.getElementById("key").value, headers = {"Content-Type": "application/json"}
  if (key) headers.Authorization = "Bearer " + key
  answer.textContent = "…"
  try {
    const response = await fetch("." + path, {method, headers, body: method == "GET" ? undefined : body})
    const reader = response.body.getReader(), decoder = new TextDecoder()
    answer.textContent = response.status + "\\n"
    for (let part; !(part = await reader.read()).done;)
      answer.textContent += decoder.decode(part.value, {stream: true})
  } catch (error) { answer.textContent = String(error) }
}
function show(all, path, method, operation) {
  const box = make("details"), summary = make("summary"), schema = schemaOf(all, operation), fields = make("ul")
  summary.append(make("code", method + " " + path), " – " + (operation.description ?? operation.summary))
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const item = make("li")
    item.append(make("code", name), " " + (field.description ?? ""))
    fields.append(item)
  }
  fields.className = "fields"
  const address = make("input", "", {value: path, size: 60}), answer = make("pre", "", {className: "answer"})
  const example = JSON.stringify(schema.examples?.[0] ?? {}, null, 2)
  const body = make("textarea", "", {value: example, rows: 8, hidden: method == "GET"})
  const button = make("button", "Send · 发送", {onclick: () => send(method, address.value, body.value, answer)})
  box.append(summary, fields, address, body, button, answer)
  document.getElementById("routes").append(box)
}
fetch("openapi.json").then(found => found.json()).then(all => {
  document.getElementById("about").textContent = all.info.description
  for (const [path, methods] of Object.entries(all.paths))
    for (const [method, operation] of Object.entries(methods)) show(all, path, method.toUpperCase(), operation)
})
</script></body></html>
"""


def add_documentation(app: FastAPI) -> None:
    """Add `/docs`, which shows what `/openapi.json` describes."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})
