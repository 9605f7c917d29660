// The tree of a conversation, and the requests for its answers.

import { Refused, stream } from "./api.js";
import { about, can, settings, steers, summary, watched } from "./settings.js";

/** A turn is a message and its answers, one in each column; turns with the same parent are branches. */
export const tree = { turns: new Map(), next: 1 };
const ROOT = 0;
const FORMAT = "steer conversation 1";

export function clear() {
  tree.turns = new Map([[ROOT, { id: ROOT, parent: null, children: [], chosen: 0, answers: {} }]]);
  tree.next = 1;
}
clear();

export const turnOf = (id) => tree.turns.get(id);

/** The visible turns, first to last. */
export function path() {
  const shown = [];
  let at = turnOf(ROOT);
  while (at.children.length) {
    at = turnOf(at.children[Math.min(at.chosen, at.children.length - 1)]);
    shown.push(at);
  }
  return shown;
}

/** A turn's branches with the turn itself, the index of the turn, and a function that shows another. */
export function branches(turn) {
  const parent = turnOf(turn.parent);
  return { all: parent.children, at: parent.children.indexOf(turn.id), show: (index) => { parent.chosen = index; } };
}

/** A new turn under `parent` (by default the last visible turn), which is then shown. */
export function add(prompt, parent = path().at(-1)?.id ?? ROOT, seed = settings.seed) {
  const turn = { id: tree.next++, parent, children: [], chosen: 0, prompt, seed, mode: settings.mode, answers: {} };
  tree.turns.set(turn.id, turn);
  const above = turnOf(parent);
  above.children.push(turn.id);
  above.chosen = above.children.length - 1;
  return turn;
}

/** The columns of a new turn: their labels, and the fields of their requests. */
export function columns() {
  const list = steers();
  const steered = list.length > 0;
  const result = [];
  if (settings.compare || !steered) {
    result.push({ key: "unsteered", label: steered ? "Unsteered" : "The model as it is", fields: { steer: [] }, system: settings.system });
  }
  if (steered) {
    const guard = settings.guard && can("guard") ? { guard: settings.guard, on_trip: settings.on_trip } : {};
    result.push({ key: "steered", label: `Steered · ${summary()}`, fields: { steer: list, ...guard }, system: settings.system });
  }
  if (settings.third === "prompt" && settings.condition.trim()) {
    const prompt = settings.condition.trim();
    if (can("condition") && !(settings.mode === "chat" && settings.system)) {
      result.push({ key: "third", label: `Prompt × ${settings.strength}`, fields: { steer: [], condition: prompt, strength: settings.strength }, system: "" });
    } else {
      const system = [settings.system, prompt].filter(Boolean).join("\n\n");
      result.push({ key: "third", label: "Prompt", fields: { steer: [] }, system, before: `${prompt} ` });
    }
  }
  if (settings.third === "pinned" && settings.pinned) {
    result.push({ key: "third", label: `Pinned · ${settings.pinned.label}`, fields: { steer: settings.pinned.steer }, system: settings.system });
  }
  return result;
}

/** An answer that has not begun. */
export const blank = (column, prefill = []) => ({
  label: column.label, steer: column.fields.steer, column, prefill, tokens: [], state: "waiting", finish: null,
  cost: null, gates: [], trips: [], idle: [], notes: [], error: null, count: null,
});

/** Text of an answer. */
export const textOf = (answer) => answer.tokens.map((token) => token.text).join("");

/** The body of a request: the conversation up to a turn, in one of its columns. */
function body(turn, answer, key) {
  const { column } = answer;
  const chat = turn.mode === "chat";
  const fields = {
    model: about.model, stream: true, stream_options: { include_usage: true }, temperature: settings.temperature, top_p: settings.top_p,
    max_tokens: settings.max_tokens, seed: turn.seed, return_token_ids: true, ...column.fields,
  };
  const guided = column.fields.condition !== undefined;
  if (!guided && watched().length) fields.watch = watched();
  if (guided) delete fields.watch;
  if (can("cost")) fields.cost = true;
  if (answer.prefill.length) fields.prefill = answer.prefill;
  if (!chat) return { ...fields, prompt: `${column.before ?? ""}${turn.prompt}`, logprobs: 6 };
  const messages = column.system ? [{ role: "system", content: column.system }] : [];
  for (const before of ancestors(turn)) {
    messages.push({ role: "user", content: before.prompt });
    const earlier = before.answers[key] ?? before.answers.steered ?? before.answers.unsteered ?? Object.values(before.answers)[0];
    messages.push({ role: "assistant", content: earlier ? textOf(earlier) : "" });
  }
  messages.push({ role: "user", content: turn.prompt });
  return { ...fields, messages, logprobs: true, top_logprobs: 6 };
}

function ancestors(turn) {
  const above = [];
  for (let at = turnOf(turn.parent); at.id !== ROOT; at = turnOf(at.parent)) if (at.mode === "chat") above.unshift(at);
  return above;
}

/** Request one answer of a turn. onChange: called with the answer after each piece. */
export async function write(turn, key, onChange, signal) {
  const answer = turn.answers[key];
  answer.state = "writing";
  onChange(answer);
  try {
    const path = turn.mode === "chat" ? "/v1/chat/completions" : "/v1/completions";
    for await (const event of stream(path, body(turn, answer, key), signal)) {
      take(answer, event);
      onChange(answer);
    }
    answer.state = "done";
  } catch (error) {
    answer.state = "done";
    if (error.name === "AbortError") answer.finish = "stopped";
    else answer.error = error instanceof Refused || error instanceof RangeError ? error.message : `The page failed: ${error.message}`;
  }
  onChange(answer);
}

/** A note of the server, with its advice for clients as advice for this page. */
const forPage = (note) => note.replace(/: ask for chat completions$/, ": choose Chat above").replace(/: ask for completions$/, ": choose Text above");

/** Add an event of a stream to an answer. */
function take(answer, event) {
  if (event.usage) answer.count = event.usage.completion_tokens;
  if (event.steer) {
    answer.notes = (event.steer.notes ?? []).map(forPage);
    answer.idle = event.steer.idle ?? [];
  }
  const choice = event.choices?.[0];
  if (!choice) return;
  const piece = choice.delta ? choice.delta.content ?? "" : choice.text ?? "";
  const read = entries(choice);
  if (piece || read.length) answer.tokens.push(...spans(piece, read));
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const own = choice.steer ?? {};
  if (own.gates) answer.gates = own.gates;
  if (own.trips) answer.trips = own.trips;
  if (own.cost) answer.cost = own.cost;
}

/** The tokens of a chunk: id, text, probability, alternatives and projections. */
function entries(choice) {
  const watchedValues = Object.entries(choice.steer?.watched ?? {});
  const projections = (index) => Object.fromEntries(watchedValues.map(([name, values]) => [name.split("@")[0], { layer: Number(name.split("@")[1]), value: values[index] }]));
  const logprobs = choice.logprobs;
  if (!logprobs) return [];
  const ids = choice.token_ids ?? [];
  if (logprobs.content) {
    return logprobs.content.map((entry, index) => ({
      id: entry.id ?? ids[index] ?? null, text: entry.token, logprob: entry.logprob,
      top: entry.top_logprobs.map((other) => ({ id: other.id ?? null, text: other.token, logprob: other.logprob })), watched: projections(index),
    }));
  }
  return (logprobs.tokens ?? []).map((text, index) => ({
    id: ids[index] ?? null, text, logprob: logprobs.token_logprobs[index],
    top: (logprobs.top?.[index] ?? Object.entries(logprobs.top_logprobs?.[index] ?? {}).map(([token, logprob]) => ({ token, logprob })))
      .map((other) => ({ id: other.id ?? null, text: other.token, logprob: other.logprob })),
    watched: projections(index),
  }));
}

/** Tokens with their visible texts: text that was held back belongs to the token that completes it. */
function spans(piece, read) {
  if (!read.length) return [{ id: null, text: piece, logprob: null, top: [], watched: {} }];
  const joined = read.map((token) => token.text).join("");
  if (joined === piece) return read;
  if (joined.trimStart() === piece) return read.map((token, index) => (index ? token : { ...token, text: token.text.trimStart() }));
  return read.map((token, index) => ({ ...token, text: index === read.length - 1 ? piece : "" }));
}

/** The tree and the settings as text of a file. */
export function fileText() {
  const turns = [...tree.turns.values()].map((turn) => ({ ...turn, answers: Object.fromEntries(Object.entries(turn.answers)) }));
  return JSON.stringify({ format: FORMAT, model: about.model, settings, next: tree.next, turns }, null, 1);
}

/** Read the text of a file that `fileText` gave. Throws a RangeError that says what is wrong. */
export function load(text) {
  let read;
  try { read = JSON.parse(text); } catch { throw new RangeError("This file is not JSON."); }
  if (read?.format !== FORMAT || !Array.isArray(read.turns)) throw new RangeError("This file is not a conversation that this page has saved.");
  const turns = new Map();
  for (const turn of read.turns) turns.set(turn.id, checkedTurn(turn));
  if (!turns.has(ROOT)) throw new RangeError("This file's conversation has no beginning.");
  for (const turn of turns.values()) {
    turn.children = turn.children.filter((id) => turns.get(id)?.parent === turn.id && id > turn.id);
    if (turn.id !== ROOT && !turns.get(turn.parent)?.children.includes(turn.id)) turns.delete(turn.id);
  }
  tree.turns = turns;
  tree.next = Math.max(...turns.keys()) + 1;
  adopt(settings, read.settings ?? {});
  return read.model === about.model ? "" : `It was written with ${String(read.model).slice(0, 100)}; this server has ${about.model}.`;
}

const number = (value, other) => (Number.isSafeInteger(value) && value >= 0 ? value : other);
const real = (value) => (Number.isFinite(value) ? value : 0);
const list = (value) => (Array.isArray(value) ? value.filter((item) => item !== null && typeof item === "object") : []);
const texts = (value) => (Array.isArray(value) ? value.map(String) : []);

/** A turn of a file, reduced to what this page writes. */
function checkedTurn(turn) {
  const wrong = () => { throw new RangeError("A turn of this file is damaged."); };
  if (!Number.isSafeInteger(turn?.id) || !Array.isArray(turn.children)) wrong();
  const answers = {};
  for (const [key, answer] of Object.entries(turn.answers ?? {})) {
    if (!["unsteered", "steered", "third"].includes(key) || !Array.isArray(answer?.tokens)) wrong();
    const tokens = answer.tokens.map((token) => ({
      id: number(token?.id, null), text: String(token?.text ?? ""), logprob: Number(token?.logprob ?? 0),
      top: (Array.isArray(token?.top) ? token.top : []).map((other) => ({ id: number(other?.id, null), text: String(other?.text ?? ""), logprob: Number(other?.logprob ?? 0) })),
      watched: Object.fromEntries(Object.entries(token?.watched ?? {}).map(([name, read]) => [name, { layer: number(read?.layer, 0), value: Number(read?.value ?? 0) }])),
    }));
    const column = { key, label: String(answer.label ?? key), fields: answer.column?.fields ?? { steer: [] }, system: String(answer.column?.system ?? ""), before: answer.column?.before ? String(answer.column.before) : undefined };
    answers[key] = { ...blank(column), tokens, state: "done", finish: answer.finish ? String(answer.finish) : null, cost: price(answer.cost),
      gates: list(answer.gates).map((gate) => ({ gate: String(gate.gate), share: real(gate.share), value: Number.isFinite(gate.value) ? gate.value : null })),
      trips: list(answer.trips).map((trip) => ({ guard: String(trip.guard), text: String(trip.text), value: real(trip.value) })),
      idle: texts(answer.idle), notes: texts(answer.notes), error: answer.error ? String(answer.error) : null, count: number(answer.count, null) };
  }
  return { id: turn.id, parent: turn.id === ROOT ? null : number(turn.parent, ROOT), children: turn.children.map((id) => number(id, -1)), chosen: number(turn.chosen, 0),
    prompt: String(turn.prompt ?? ""), seed: number(turn.seed, 0), mode: turn.mode === "text" ? "text" : "chat", answers };
}

function price(cost) {
  if (!cost || !["coherent", "strained", "broken"].includes(cost.word)) return null;
  return { word: cost.word, extra_nats: real(cost.extra_nats), kl: real(cost.kl), distinct_2: Number.isFinite(cost.distinct_2) ? cost.distinct_2 : null };
}

/** Take over the settings of a file that have the types of the present ones. */
function adopt(into, from) {
  for (const name of Object.keys(into)) {
    const value = from[name];
    const entries = value && typeof value === "object" ? Object.entries(value) : [];
    if (name === "vectors") {
      into[name] = Object.fromEntries(entries.map(([key, stored]) => [key, {
        on: Boolean(stored?.on), times: Number.isFinite(stored?.times) ? stored.times : 1, absolute: Boolean(stored?.absolute), op: String(stored?.op ?? ""), layers: String(stored?.layers ?? ""),
        scope: String(stored?.scope ?? ""), when: String(stored?.when ?? ""),
      }]));
    } else if (name === "recipes") {
      into[name] = Object.fromEntries(entries.map(([key, on]) => [key, Boolean(on)]));
    } else if (name === "pinned") {
      into[name] = Array.isArray(value?.steer) ? { steer: value.steer, label: String(value.label) } : null;
    } else if (typeof value === typeof into[name]) {
      into[name] = value;
    }
  }
}
