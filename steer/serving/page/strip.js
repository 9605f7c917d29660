// One prompt under a vector at many strengths.

import { Refused, stream } from "./api.js";
import { announce, dialog, field, h, short } from "./dom.js";
import { about, can, own, settings, steerOf } from "./settings.js";

const TIMES = [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2];

/** Open the strip of a vector; a click on a strength sets the page's slider to it, and closes the strip. */
export function showStrip(name, prompt, chosen) {
  const text = h("textarea", { rows: 2, value: prompt || (settings.mode === "chat" ? "How was your day?" : "One day Mara woke up.") });
  const list = h("ol", { class: "strip" });
  const start = h("button", { type: "submit", class: "primary" }, "Write nine texts");
  const form = h("form", { class: "stack" }, field("Prompt", text), h("div", { class: "row end" }, start));
  const controller = new AbortController();
  const shown = dialog(`${name}, from −2 to 2 times recommended`, form, list);
  shown.classList.add("wide");
  shown.addEventListener("close", () => controller.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    start.disabled = true;
    const rows = TIMES.map((times) => row(times));
    list.replaceChildren(...rows.map((line) => line.element));
    await Promise.all(rows.map((line) => write(name, line, text.value, controller.signal)));
    announce("All nine texts are written.");
    start.disabled = false;
  });
  form.requestSubmit();

  function row(times) {
    const use = h("button", { type: "button", class: "quiet", on: { click: () => { shown.close(); chosen(name, times); } } }, `×${String(times).replace("-", "−")}`);
    use.setAttribute("aria-label", `Use ${times} times recommended`);
    const words = h("p", { class: "words" });
    const word = h("span", { class: "figures" });
    return { times, words, word, element: h("li", { class: times === own(name).times ? "now" : "" }, use, words, word) };
  }
}

async function write(name, line, prompt, signal) {
  const chat = settings.mode === "chat";
  const body = {
    model: about.model, stream: true, temperature: settings.temperature, top_p: settings.top_p, seed: settings.seed,
    max_tokens: Math.min(48, settings.max_tokens), ...(can("cost") ? { cost: true } : {}),
  };
  try {
    body.steer = line.times ? [steerOf(name, line.times)] : [];
    if (chat) body.messages = [...(settings.system ? [{ role: "system", content: settings.system }] : []), { role: "user", content: prompt }];
    else body.prompt = prompt;
    for await (const event of stream(chat ? "/v1/chat/completions" : "/v1/completions", body, signal)) {
      const choice = event.choices?.[0];
      if (!choice) continue;
      const piece = chat ? choice.delta?.content ?? "" : choice.text ?? "";
      line.words.append(line.words.textContent ? piece : piece.trimStart());
      const cost = choice.steer?.cost;
      if (cost) line.word.replaceChildren(h("span", { class: `word ${cost.word}`, title: `${short(cost.extra_nats)} extra nats per token, KL ${short(cost.kl)}` }, cost.word));
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    line.words.append(h("span", { class: "problem" }, error instanceof Refused || error instanceof RangeError ? error.message : String(error)));
  }
}
