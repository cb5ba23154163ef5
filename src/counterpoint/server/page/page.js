// The page at /: one prompt written twice, unguided and guided, each token with what every branch thought of it.

const TOP = 6; // alternatives of a token
const $ = (id) => document.getElementById(id);
const number = (id) => Number($(id).value);
let halting = null;

for (const id of ["scale", "plausibility"]) {
  const show = () => ($(`${id}-shown`).textContent = number(id).toFixed(id === "scale" ? 1 : 2));
  $(id).addEventListener("input", show);
  show();
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function showModel() {
  const answer = await fetch("v1/models", { headers: headers() });
  if (!answer.ok) return;
  const { data } = await answer.json();
  $("model").textContent = data[0].id + (data[0].max_model_len ? `, ${data[0].max_model_len} tokens` : "");
}

function unguidedBody() {
  return {
    prompt: $("prompt").value,
    max_tokens: number("tokens"),
    temperature: number("temperature"),
    seed: number("seed"),
    stream: true,
    stream_options: { include_usage: true },
    trace: TOP,
  };
}

function guidedBody() {
  const scale = number("scale");
  const body = {
    ...unguidedBody(),
    guidance_scale: scale,
    guidance: { space: $("space").value, plausibility: number("plausibility") },
  };
  // At scale 1 a negative can do nothing, and the server says so; plausibility still can.
  if (scale !== 1 && $("negative").value) body.negative_prompt = $("negative").value;
  return body;
}

async function* events(body, signal) {
  const answer = await fetch("v1/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function write(side, body, signal) {
  const target = $(side);
  const state = $(`${side}-state`);
  const began = performance.now();
  target.replaceChildren();
  state.className = "state";
  state.textContent = "reading";
  let written = 0;
  let usage = null;
  let reason = null;
  try {
    for await (const event of events(body, signal)) {
      usage = event.usage ?? usage;
      for (const choice of event.choices) {
        reason = choice.finish_reason ?? reason;
        for (const step of choice.trace ?? []) {
          target.append(tokenOf(step));
          written += 1;
        }
      }
      state.textContent = `${written} tokens`;
    }
    const seconds = (performance.now() - began) / 1000;
    const ended = reason === "stop" ? "ended by itself" : "up to the length asked for";
    const read = usage ? `, ${usage.prompt_tokens} read for the prompt` : "";
    const beside = usage?.branch_tokens ? `, ${usage.branch_tokens} by the negative` : "";
    state.textContent = `${written} tokens in ${seconds.toFixed(1)} s, ${ended}${read}${beside}`;
  } catch (error) {
    state.className = error.name === "AbortError" ? "state" : "state wrong";
    state.textContent = error.name === "AbortError" ? `stopped after ${written} tokens` : error.message;
  }
}

function tokenOf(step) {
  const token = document.createElement("span");
  token.className = "token" + (step.artefact ? " artefact" : "") + (step.text ? "" : " unseen");
  token.textContent = step.text || step.label;
  token.style.setProperty("--shift", Math.min(0.75, Math.sqrt(step.shift)).toFixed(3));
  token.tabIndex = 0;
  token.setAttribute("role", "button");
  token.setAttribute("aria-pressed", "false");
  token.addEventListener("click", () => explain(token, step));
  token.addEventListener("keydown", (event) => {
    const next = { ArrowRight: token.nextElementSibling, ArrowLeft: token.previousElementSibling }[event.key];
    if (event.key === "Enter" || event.key === " ") token.click();
    else if (next) { next.focus(); next.click(); }
    else return;
    event.preventDefault();
  });
  return token;
}

const percent = (logprob) => (logprob === null ? "0" : `${(100 * Math.exp(logprob)).toPrecision(3)} %`);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function table(name, seen, step) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  const title = element("th", `${name}: ${percent(seen.logprob)}, rank ${seen.rank}`);
  title.colSpan = 3;
  head.append(title);
  const body = made.createTBody();
  for (const [id, label, logprob] of seen.top) {
    const row = body.insertRow();
    if (id === step.token_id) row.className = "chosen";
    row.insertCell().append(element("code", label));
    row.insertCell().textContent = percent(logprob);
    const bar = element("span", "", "bar");
    bar.style.width = `${(6 * Math.exp(logprob)).toFixed(2)}rem`;
    row.insertCell().append(bar);
  }
  return made;
}

function explain(token, step) {
  for (const other of document.querySelectorAll('.token[aria-pressed="true"]')) other.setAttribute("aria-pressed", "false");
  token.setAttribute("aria-pressed", "true");
  const says = { applied: "guided", skipped: "decided without the negative", gated: "below the gate", outside: "outside of start and stop", off: "unguided" };
  const head = element("p");
  head.append(`Token ${step.step}, `, element("code", step.label), `: ${says[step.guidance]}; entropy ${step.entropy.toFixed(2)} nats, `);
  head.append(`changed by guidance ${step.shift.toFixed(3)} bits${step.artefact ? "; implausible to the prompt alone" : ""}`);
  const tables = element("div", undefined, "tables");
  tables.append(table("Prompt", step.cond, step));
  step.branches.forEach((seen, i) => tables.append(table(step.branches.length > 1 ? `Branch ${i + 1}` : "Negative", seen, step)));
  if (step.guidance === "applied") tables.append(table("Guided", step.guided, step));
  $("why").replaceChildren(head, tables);
  $("why").hidden = false;
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  halting?.abort();
  const own = (halting = new AbortController());
  $("why").hidden = true;
  $("halt").disabled = false;
  showModel().catch(() => {});
  await Promise.all([write("unguided", unguidedBody(), own.signal), write("guided", guidedBody(), own.signal)]);
  if (halting === own) $("halt").disabled = true;
});
$("halt").addEventListener("click", () => halting?.abort());
$("prompt").form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
showModel().catch(() => {});
