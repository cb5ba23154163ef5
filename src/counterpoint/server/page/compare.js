// The page at /compare: one prompt under every pair of a scale and a space.

import { $, bodyOf, follow, restore, showModel, write } from "./shared.js";

const FIELDS = ["kind", "system", "prompt", "negative", "scales", "spaces", "temperature", "seed", "tokens"];
const MOST = 24; // texts at once
let halting = null;

/** The grid; at scale 1 the spaces are one and the same. */
function cells() {
  const scales = [...new Set($("scales").value.split(/[\s,;]+/).filter(Boolean).map(Number))];
  if (!scales.length || scales.some((scale) => !Number.isFinite(scale))) {
    throw new Error(`Scales are "${$("scales").value}"; give numbers with commas between them.`);
  }
  const made = scales.flatMap((scale) => (scale === 1 ? [""] : $("spaces").value.split(" ")).map((space) => ({ scale, space })));
  if (made.length > MOST) throw new Error(`That is ${made.length} texts; give fewer scales, for ${MOST} at most.`);
  return made;
}

const body = ({ scale, space }) => bodyOf(scale === 1 ? null : { guidance_scale: scale, guidance: { space } });

function cellOf({ scale, space }) {
  const section = document.createElement("section");
  const title = document.createElement("h2");
  title.textContent = scale === 1 ? "Scale 1: unguided" : `Scale ${scale}, ${space}`;
  const state = document.createElement("p");
  state.setAttribute("role", "status");
  const text = document.createElement("div");
  text.className = "text short";
  section.append(title, state, text);
  return { section, state, text };
}

restore(FIELDS);
follow(FIELDS, [$("to-write")]);
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  halting?.abort();
  const own = (halting = new AbortController());
  $("why").hidden = true;
  $("state").className = "state";
  $("state").textContent = "";
  let wanted;
  try {
    wanted = cells();
  } catch (error) {
    $("state").className = "state wrong";
    $("state").textContent = error.message;
    return;
  }
  $("halt").disabled = false;
  showModel().catch(() => {});
  const made = wanted.map((cell) => ({ ...cellOf(cell), body: body(cell) }));
  $("grid").replaceChildren(...made.map((cell) => cell.section));
  await Promise.all(made.map((cell) => write(cell.text, cell.state, cell.body, own.signal)));
  if (halting === own) $("halt").disabled = true;
});
$("halt").addEventListener("click", () => halting?.abort());
