// What both pages do alike: ask the server, show tokens and what is behind them, keep the settings in the link.

const TOP = 6; // alternatives of a token
export const $ = (id) => document.getElementById(id);
export const number = (id) => Number($(id).value);

// A model with a chat template is asked in chats, where the negative takes the system message's place.
const EXAMPLES = {
  text: [
    { prompt: "Sentiment: positive. Product remark.\n\n", negative: "Sentiment: negative. Product remark.\n\n" },
    { prompt: "Genre: horror. The door", negative: "Genre: children's. The door" },
    {
      prompt: "Extremely polite and friendly answers to \"How are you doing?\"\n1. \"",
      negative: "Very rude and harmful answers to \"How are you doing?\"\n1. \"",
    },
  ],
  chat: [
    {
      system: "You are a pirate. Talk like a pirate.",
      negative: "You are a business consultant. Talk like a business consultant.",
      prompt: "What should I have for breakfast?",
    },
    { system: "Answer in one short sentence.", negative: "Answer at great length.", prompt: "Why is the sky blue?" },
    { system: "Talk like Shakespeare.", negative: "Talk like a tax form.", prompt: "Tell me about the weather." },
  ],
};
const WORDS = {
  text: {
    examples: ["a glad remark", "a horror story", "a polite answer"],
    prompt: "Prompt",
    negative: "Negative, to move away from",
    empty: "Left empty: the prompt's last token alone",
  },
  chat: {
    examples: ["a pirate", "one sentence", "Shakespeare"],
    prompt: "Question",
    negative: "Negative, to move away from: takes the system message's place",
    empty: "Left empty: the conversation's last token alone",
  },
};

/** The form in the words of its kind, "text" or "chat". */
export function showKind() {
  const words = WORDS[$("kind").value];
  $("system-field").hidden = $("kind").value !== "chat";
  $("prompt-name").textContent = words.prompt;
  $("negative-name").textContent = words.negative;
  $("negative").placeholder = words.empty;
  document.querySelectorAll("[data-example]").forEach((button, at) => (button.textContent = words.examples[at]));
}

export function fill(at) {
  const example = EXAMPLES[$("kind").value][at];
  for (const id of ["system", "prompt", "negative"]) $(id).value = example[id] ?? "";
}

/** A request as the form stands: without guidance, or with the fields given. */
export function bodyOf(guided) {
  const [kind, prompt, system] = ["kind", "prompt", "system"].map((id) => $(id).value);
  const turns = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: prompt }];
  const negative = $("negative").value;
  return {
    ...(kind === "chat" ? { messages: turns } : { prompt }),
    max_tokens: number("tokens"),
    temperature: number("temperature"),
    seed: number("seed"),
    stream: true,
    stream_options: { include_usage: true },
    trace: TOP,
    ...(guided ?? {}),
    ...(guided && guided.guidance_scale !== 1 && negative ? { negative_prompt: negative } : {}),
  };
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** A field for the key, once the server has asked for one. */
function askForKey() {
  $("key-field").hidden = false;
  $("key").focus();
}

/** The model's name; a form that nobody has filled yet is given the kind and the example that suit the model. */
export async function showModel(isFilled = true) {
  const answer = await fetch("v1/models", { headers: headers() });
  if (answer.status === 401) return askForKey();
  if (!answer.ok) return;
  const { data } = await answer.json();
  $("model").textContent = data[0].id + (data[0].max_model_len ? `, ${data[0].max_model_len} tokens` : "");
  $("kind-field").hidden = !data[0].has_chat_template;
  const isUntouched = $("kind").value === "text" && $("prompt").value === EXAMPLES.text[0].prompt;
  if (isFilled || !isUntouched || !data[0].has_chat_template) return;
  $("kind").value = "chat";
  showKind();
  fill(0);
  $("form").dispatchEvent(new Event("input"));
}

export async function* events(body, signal) {
  const answer = await fetch(`v1/${body.messages ? "chat/" : ""}completions`, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (answer.status === 401) askForKey();
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

/** Write one text into `target`, and how it goes into `state`. */
export async function write(target, state, body, signal) {
  const began = performance.now();
  target.replaceChildren();
  state.className = "state";
  state.textContent = "reading";
  let [written, usage, reason] = [0, null, null];
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
    const last = target.lastElementChild;
    if (reason === "stop" && last?.classList.contains("unseen")) {
      last.textContent = "∎"; // the model's own end; its name is in the panel
      last.title = "the model ended the text here";
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
  const add = (id, label, logprob, rank) => {
    const row = body.insertRow();
    if (id === step.token_id) row.className = "chosen";
    row.insertCell().append(...(rank ? [`${rank}. `] : []), element("code", label));
    row.insertCell().textContent = percent(logprob);
    const bar = element("span", "", "bar");
    bar.style.width = `${(6 * Math.exp(logprob ?? -99)).toFixed(2)}rem`;
    row.insertCell().append(bar);
  };
  for (const [id, label, logprob] of seen.top) add(id, label, logprob);
  // The chosen token is in every table, also where others are better.
  if (!seen.top.some(([id]) => id === step.token_id)) add(step.token_id, step.label, seen.logprob, seen.rank);
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

/** The fields of the form as the part of a link after #, and back. The key is never among them. */
export function settings(fields) {
  return new URLSearchParams(fields.map((id) => [id, $(id).value])).toString();
}

/** Fill the form from the link, or with the first example. The kind can be changed, and the examples with it. */
export function restore(fields) {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const id of fields) if (given.has(id)) $(id).value = given.get(id);
  showKind();
  if (!given.has("prompt")) fill(0);
  $("kind").addEventListener("change", () => {
    showKind();
    fill(0);
  });
  showModel(given.size > 0).catch(() => {});
}

/** Keep the link as the form stands, hand it out, and take back old complaints once the form is changed. */
export function follow(fields, others) {
  const linked = () => {
    history.replaceState(null, "", `#${settings(fields)}`);
    for (const link of others) link.hash = settings(fields);
  };
  $("form").addEventListener("input", () => {
    for (const state of document.querySelectorAll(".state.wrong")) {
      state.className = "state";
      state.textContent = "";
    }
    for (const link of others) link.hash = settings(fields);
  });
  $("form").addEventListener("submit", linked);
  $("link").addEventListener("click", async () => {
    linked();
    const done = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    $("link").textContent = done ? "Copied" : "In the address bar";
    setTimeout(() => ($("link").textContent = "Copy link"), 2000);
  });
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  });
}
