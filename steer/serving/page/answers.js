// The view of an answer: its tokens, coloured and compared, and its cost.

import { h, short } from "./dom.js";
import { settings, vector } from "./settings.js";
import * as card from "./card.js";

const WORDS = {
  coherent: "The unsteered model finds this text nearly as likely as its own.",
  strained: "The unsteered model finds this text less likely than its own, or it repeats itself.",
  broken: "The unsteered model finds this text very unlikely, or it repeats itself all the time.",
};
const FINISH = { length: "cut off there", stopped: "stopped" };

/** The view of one answer. onBranch: called with the index of a token and the token to continue from instead. */
export class AnswerView {
  constructor(answer, onBranch) {
    this.answer = answer;
    this.onBranch = onBranch;
    this.spans = [];
    this.text = h("div", { class: "text", tabindex: 0, role: "group", "aria-label": `${answer.label}. Arrow keys go through the tokens, Enter opens one.` });
    this.meta = h("div", { class: "meta" });
    this.element = h("section", { class: `answer ${answer.column.key}`, "aria-label": answer.label },
      h("h3", {}, answer.label), this.text, this.meta);
    card.attach(this);
    this.update();
  }

  /** Show new tokens and facts. */
  update() {
    const { answer } = this;
    for (let index = this.spans.length; index < answer.tokens.length; index++) {
      // Blanks before a word stay outside its colour.
      const { text } = answer.tokens[index];
      const word = text.trimStart() || text;
      const span = h("span", { class: "token" }, word);
      this.spans.push(span);
      const blanks = text.slice(0, text.length - word.length);
      if (blanks && (index || blanks.includes("\n"))) this.text.append(blanks);
      this.text.append(span);
      this.paint(index);
    }
    this.text.classList.toggle("writing", answer.state === "writing" || answer.state === "waiting");
    this.meta.replaceChildren(...this.facts());
  }

  /** Colour one token by its projection. */
  paint(index) {
    const span = this.spans[index];
    const read = this.answer.tokens[index].watched?.[settings.colour];
    span.classList.remove("pos", "neg");
    if (!settings.colour || !read || !Number.isFinite(read.value)) return;
    const away = read.value - 0.5;
    span.classList.add(away < 0 ? "neg" : "pos");
    span.style.setProperty("--a", String(Math.min(1, Math.abs(away)) * 0.5));
  }

  repaint() {
    for (const index of this.spans.keys()) this.paint(index);
  }

  /** Mark the tokens that `other` does not have. */
  compare(other) {
    const differs = settings.differences && other ? different(this.answer.tokens.map((token) => token.text), other.tokens.map((token) => token.text)) : null;
    this.spans.forEach((span, index) => span.classList.toggle("differs", Boolean(differs?.[index]) && /\S/.test(span.textContent)));
  }

  facts() {
    const { answer } = this;
    if (answer.error) return [h("p", { class: "problem", role: "alert" }, answer.error)];
    const facts = [];
    if (answer.state === "writing" && !answer.tokens.length) facts.push(h("span", { class: "muted" }, "…"));
    if (answer.cost) {
      const { word, extra_nats: nats, kl, distinct_2: distinct } = answer.cost;
      facts.push(h("span", { class: `word ${word}`, title: WORDS[word] }, word));
      const figures = nats || kl ? [`${signed(nats)} nats/token`, `KL ${kl.toFixed(2)}`] : [];
      if (distinct !== null) figures.push(`distinct-2 ${distinct.toFixed(2)}`);
      if (figures.length) facts.push(h("span", { class: "figures" }, figures.join(" · ")));
    }
    if (answer.state === "done" && answer.count !== null) facts.push(h("span", { class: "figures" }, `${answer.count} tokens`));
    if (answer.finish in FINISH) facts.push(h("span", { class: "figures" }, FINISH[answer.finish]));
    for (const gate of answer.gates) {
      const read = gate.value === null || gate.value === undefined ? "" : ` (read ${short(gate.value)})`;
      facts.push(h("span", { class: "event" }, `gate ${gate.gate} ${gate.share === 0 ? "stayed closed" : gate.share === 1 ? "was open" : `was open for ${Math.round(100 * gate.share)} % of tokens`}${read}`));
    }
    for (const trip of answer.trips) facts.push(h("span", { class: "event trip" }, `guard ${trip.guard} tripped at “${trip.text.trim()}” (${short(trip.value)})`));
    for (const note of answer.notes) facts.push(h("p", { class: "note" }, note));
    return facts;
  }
}

/** A number with its sign, zero without one. */
const signed = (value) => {
  const digits = Math.abs(value).toFixed(2);
  return Number(digits) ? `${value < 0 ? "−" : "+"}${digits}` : "±0";
};

/** Whether each element of `own` is outside the longest common subsequence with `other`. */
export function different(own, other) {
  const [n, m] = [own.length, other.length];
  const lengths = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      lengths[i][j] = own[i] === other[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const differs = new Array(n).fill(true);
  for (let i = 0, j = 0; i < n && j < m;) {
    if (own[i] === other[j]) { differs[i] = false; i++; j++; }
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return differs;
}

/** What the colours mean, in the units of the vector's file. */
export function legend(name) {
  const known = vector(name);
  const row = known?.statistics.find((entry) => entry.layer === known.watch_layer);
  if (!row) return h("div", { class: "legend", hidden: true });
  const tip = `Projection on ${name} at layer ${known.watch_layer}, in the file's units: 0 is where the mean of its negative texts lies (${short(row.neg, 1)} in activation units), 1 that of its positive ones (${short(row.pos, 1)}). Single tokens scatter wider.`;
  return h("div", { class: "legend", title: tip },
    h("span", {}, "0 negative"), h("span", { class: "scale", role: "img", "aria-label": tip }), h("span", {}, "1 positive"));
}
