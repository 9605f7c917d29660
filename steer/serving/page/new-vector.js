// Makes a vector from words, or from pairs of texts.

import { post, Refused, stream } from "./api.js";
import { announce, dialog, field, h, short } from "./dom.js";
import { draw } from "./panel.js";
import { about, vector } from "./settings.js";

const EXAMPLE = [
  ["What a wonderful morning! I could sing.", "What a dreary morning. I could weep."],
  ["She laughed and ran out into the sun.", "She sighed and stayed in the dark."],
  ["The letter made him very happy.", "The letter made him very sad."],
  ["We danced until the stars came out.", "We sat there until the rain came down."],
  ["Everything will turn out well, I know it.", "Nothing will turn out well, I know it."],
  ["The garden was full of cheerful birds.", "The garden was full of dead leaves."],
  ["He greeted everyone with a bright smile.", "He passed everyone with a bitter frown."],
  ["They won, and the whole town cheered.", "They lost, and the whole town mourned."],
  ["I love how this day has begun.", "I hate how this day has begun."],
  ["The child clapped her hands with joy.", "The child hid her face in grief."],
  ["Good news came with every post.", "Bad news came with every post."],
  ["It was the happiest summer of their lives.", "It was the loneliest summer of their lives."],
];
/** A name made from a word that no vector or recipe has. */
function freeName(text) {
  const base = text.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  const taken = new Set([...about.vectors, ...about.recipes].map((entry) => entry.id));
  let name = base;
  for (let number = 2; base && taken.has(name); number++) name = `${base}-${number}`;
  return name;
}

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

/** Open the dialog. onMade: called with the name of a new vector. tryIt: called to try it. */
export function showNewVector(onMade, tryIt) {
  const name = h("input", { type: "text", required: true, autocomplete: "off", spellcheck: "false", placeholder: "cheerful" });
  const positive = h("textarea", { rows: 8, placeholder: "One text a line" });
  const negative = h("textarea", { rows: 8, placeholder: "Its counterpart, line by line" });
  const chat = h("input", { type: "checkbox", checked: false, disabled: !about.chat });
  const problem = h("p", { class: "problem", role: "alert" });
  const progress = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress" });
  const doing = h("p", { class: "hint progress-text" });
  const report = h("div", { class: "stack" });
  const submit = h("button", { type: "submit", class: "primary" }, "Make the vector");
  const example = h("button", { type: "button", class: "quiet", on: { click: () => {
    positive.value = EXAMPLE.map((pair) => pair[0]).join("\n");
    negative.value = EXAMPLE.map((pair) => pair[1]).join("\n");
    name.value ||= freeName("cheerful");
    tally();
  } } }, "Fill in an example");
  const counted = h("p", { class: "hint" });
  const tally = () => {
    const [n, m] = [lines(positive.value).length, lines(negative.value).length];
    counted.textContent = n || m ? `${n} and ${m} texts${n === m ? "" : ": as many on each side, please"}` : "Ten pairs or more say how good the vector is.";
  };
  for (const box of [positive, negative]) {
    box.addEventListener("input", tally);
    box.addEventListener("paste", (event) => {
      const pairs = jsonl(event.clipboardData.getData("text"));
      if (!pairs) return;
      event.preventDefault();
      positive.value = pairs.map((pair) => pair.positive.replaceAll("\n", " ")).join("\n");
      negative.value = pairs.map((pair) => pair.negative.replaceAll("\n", " ")).join("\n");
      tally();
    });
  }
  tally();
  const word = h("input", { type: "text", autocomplete: "off", placeholder: "patient" });
  const against = h("input", { type: "text", autocomplete: "off", placeholder: "impatient" });
  const fromWords = h("div", { class: "stack" },
    h("div", { class: "pair" }, field("A word, or what it does", word), field("Its opposite, if it has one", against)),
    h("p", { class: "hint" }, `The model answers everyday questions in both ways, and the vector is the difference. ${about.model === "pocket"
      ? "The small model inside steer knows few words, of moods above all; pairs of texts teach it more."
      : "On a small chat model that takes about a minute."}`));
  const fromPairs = h("div", { class: "stack", hidden: true },
    h("p", { class: "muted" }, "The vector is the direction in the model from the second kind of text to the first. Texts that differ in nothing else make the best ones."),
    h("div", { class: "pair" }, field("Texts that show it", positive), field("Texts that do not", negative)),
    h("div", { class: "row" }, counted, h("span", { class: "grow" }), example),
    h("label", { class: "inline" }, chat, "The texts are what a user says in a chat"));
  let words = true;
  const show = (own) => { words = own; fromWords.hidden = !own; fromPairs.hidden = own; problem.textContent = ""; };
  const ways = [["From words", true], ["From pairs of texts", false]].map(([label, own]) =>
    h("label", {}, h("input", { type: "radio", name: "way", checked: own, on: { change: () => show(own) } }), h("span", {}, label)));
  let named = false;
  name.addEventListener("input", () => { named = Boolean(name.value); });
  word.addEventListener("input", () => { if (!named) name.value = freeName(word.value); });
  const form = h("form", { class: "stack" }, h("fieldset", { class: "segments" }, h("legend", { class: "hidden" }, "How it is made"), ...ways),
    fromWords, fromPairs, field("Name", name), progress, doing, problem, h("div", { class: "row end" }, submit));
  const controller = new AbortController();
  const shown = dialog("New vector", form, report);
  shown.addEventListener("close", () => controller.abort());
  word.focus();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [first, second] = [lines(positive.value), lines(negative.value)];
    if (words && !word.value.trim()) {
      problem.textContent = "Write a word, such as patient, or what it does: answers in rhyme.";
      return;
    }
    if (!words && (first.length !== second.length || first.length < 2)) {
      problem.textContent = `There are ${first.length} and ${second.length} texts: write two pairs or more, one text a line.`;
      return;
    }
    problem.textContent = "";
    report.replaceChildren();
    submit.disabled = true;
    progress.hidden = false;
    progress.value = 0;
    try {
      const contents = words ? { word: word.value.trim(), ...(against.value.trim() ? { against: against.value.trim() } : {}) }
        : { pairs: first.map((text, index) => ({ positive: text, negative: second[index] })), chat: chat.checked };
      for await (const update of stream("/page/vectors", { name: name.value.trim(), ...contents }, controller.signal)) {
        if (update.progress) {
          const { what, done, total, share } = update.progress;
          progress.value = share ?? 0;
          doing.textContent = `${what}: ${done} of ${total}`;
          submit.textContent = "Making…";
        }
        if (update.vector) {
          await onMade(update.vector.id);
          const restart = () => { report.replaceChildren(); form.hidden = false; named = false; name.value = ""; word.focus(); };
          report.replaceChildren(...diagnostics(update.vector, update.warnings, update.report, contents, () => { shown.close(); tryIt(); }, restart));
          form.hidden = true;
          report.querySelector(".primary").focus();
          announce(`${update.vector.id} is made and on.`);
        }
      }
    } catch (error) {
      if (error.name !== "AbortError") problem.textContent = error instanceof Refused ? error.message : String(error);
    }
    submit.disabled = false;
    submit.textContent = "Make the vector";
    doing.textContent = "";
    progress.hidden = true;
  });
}

/** Have the server write a vector to a file; the button shows the result. */
export async function saveVector(entry, button) {
  button.disabled = true;
  try {
    const { file } = await post("/page/save", { name: entry.id });
    vector(entry.id).saved = true;
    button.textContent = `Saved as ${file}`;
  } catch (error) {
    button.disabled = false;
    button.textContent = error.message;
  }
  announce(button.textContent);
}

/** The pairs of a JSONL file, if a text is one. */
function jsonl(text) {
  try {
    const pairs = lines(text).map((line) => JSON.parse(line));
    return pairs.length && pairs.every((pair) => typeof pair.positive === "string" && typeof pair.negative === "string") ? pairs : null;
  } catch { return null; }
}

function diagnostics(entry, warnings, report, contents, tryIt, restart) {
  const save = h("button", { type: "button", on: { click: async () => { await saveVector(entry, save); draw(); if (save.disabled) tried.focus(); } } }, "Save to a file");
  const tried = h("button", { type: "button", class: "primary", on: { click: tryIt } }, "Try it");
  return [
    h("h3", {}, `${entry.id} is made, and it alone is on`),
    // A vector of words is judged by its effect on held-out answers, a vector of pairs by how well it separates held-out texts.
    ...(report?.effect ? effect(report, contents) : separation(entry, warnings)),
    h("p", { class: "hint" }, "It is there until the server stops, or for good once it is saved."),
    h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", on: { click: restart } }, "Make another"), save,
      tried),
  ];
}

function effect({ effect: { value, low, high }, cost, prompt_cost, works, reason }, { word, against }) {
  const [share, from, to] = [value, low, high].map((part) => Math.round(100 * part));
  const way = against ? `from “${against}” to “${word}”` : `to “${word}”`;
  return [
    works ? h("p", {}, `On questions that it was not made from, it moves answers ${share} % of the way ${way} (95 % interval: ${from} to ${to} %).`)
      : h("p", { class: "warning" }, `It is hardly worth keeping: ${reason}.`),
    h("p", {}, `It makes them ${likelihood(cost.value)} to the unsteered model; saying so in a prompt, ${likelihood(prompt_cost)}.`),
  ];
}

/** How much less likely texts are, in words. nats: extra nats per token. */
const likelihood = (nats) => (Math.abs(nats) < 0.005 ? "as likely" : `${short(Math.abs(nats))} nats a token ${nats > 0 ? "less" : "more"} likely`);

function separation(entry, warnings) {
  const best = entry.recommended.layers[0];
  const noted = warnings.map((text) => h("p", { class: "warning" }, text));
  const { separability } = entry.statistics.find((row) => row.layer === best);
  if (separability === null) return [h("p", {}, `It acts at layer ${best}. There were too few pairs to say how well it separates new texts.`), ...noted];
  const bars = entry.statistics.map((row) => {
    const value = row.separability;
    const bar = h("span", { class: `column${row.layer === best ? " best" : ""}`, title: `Layer ${row.layer}: ${value === null ? "unknown" : short(value)}` });
    bar.style.height = `${value === null ? 0 : Math.max(4, 100 * Math.max(0, (value - 0.5) * 2))}%`;
    return bar;
  });
  return [
    h("p", {}, `At layer ${best} it puts ${short(100 * separability, 1)} % of pairs of texts that it had not seen in the right order (50 % is chance).`),
    h("div", { class: "chart", role: "img", "aria-label": `Separability by layer: ${entry.statistics.map((row) => `${row.layer}: ${row.separability === null ? "unknown" : short(row.separability)}`).join(", ")}` }, ...bars),
    h("p", { class: "hint" }, `How well each of the ${entry.statistics.length} layers separates them; the chosen one is marked.`),
    ...noted,
  ];
}
