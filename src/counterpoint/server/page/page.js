// The page at /: one prompt written twice, unguided and guided, each token with what every branch thought of it.

import { $, bodyOf, fill, follow, number, restore, showModel, write } from "./shared.js";

const FIELDS = ["kind", "system", "prompt", "negative", "scale", "plausibility", "space", "temperature", "seed", "tokens"];
let halting = null;

function shown() {
  for (const id of ["scale", "plausibility"]) {
    $(`${id}-shown`).textContent = number(id).toFixed(id === "scale" ? 1 : 2);
  }
}

function guided() {
  return {
    guidance_scale: number("scale"),
    guidance: { space: $("space").value, plausibility: number("plausibility") },
  };
}

restore(FIELDS);
shown();
$("form").addEventListener("input", shown);
follow(FIELDS, [$("to-compare")]);
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    fill(Number(button.dataset.example));
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
  const sides = { unguided: bodyOf(), guided: bodyOf(guided()) };
  await Promise.all(Object.entries(sides).map(([side, body]) => write($(side), $(`${side}-state`), body, own.signal)));
  if (halting === own) $("halt").disabled = true;
});
$("halt").addEventListener("click", () => halting?.abort());
