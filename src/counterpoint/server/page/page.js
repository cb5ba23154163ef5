// The page at /: one prompt written twice, unguided and guided, each token with what every branch thought of it.

import { $, EXAMPLES, TOP, follow, number, restore, showModel, write } from "./shared.js";

const FIELDS = ["prompt", "negative", "scale", "plausibility", "space", "temperature", "seed", "tokens"];
let halting = null;

function shown() {
  for (const id of ["scale", "plausibility"]) {
    $(`${id}-shown`).textContent = number(id).toFixed(id === "scale" ? 1 : 2);
  }
}

function fill(example) {
  $("prompt").value = example.prompt;
  $("negative").value = example.negative;
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
  if (scale !== 1 && $("negative").value) body.negative_prompt = $("negative").value;
  return body;
}

if (!restore(FIELDS)) fill(EXAMPLES[0]);
shown();
$("form").addEventListener("input", shown);
follow(FIELDS, [$("to-compare")]);
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    fill(EXAMPLES[Number(button.dataset.example)]);
    $("form").requestSubmit();
  });
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  halting?.abort();
  const own = (halting = new AbortController());
  $("why").hidden = true;
  $("halt").disabled = false;
  showModel().catch(() => {});
  const sides = { unguided: unguidedBody(), guided: guidedBody() };
  await Promise.all(Object.entries(sides).map(([side, body]) => write($(side), $(`${side}-state`), body, own.signal)));
  if (halting === own) $("halt").disabled = true;
});
$("halt").addEventListener("click", () => halting?.abort());
showModel().catch(() => {});
