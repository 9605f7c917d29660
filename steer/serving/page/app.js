// The page: opens it, and connects its parts.

import { get, Refused, setKey } from "./api.js";
import { announce, byId, dialog, field, h, select } from "./dom.js";
import { about, active, can, own, settings, summary, vector } from "./settings.js";
import * as panel from "./panel.js";
import * as talk from "./conversation.js";
import { AnswerView, legend } from "./answers.js";
import { hide } from "./card.js";
import { showExport } from "./exporting.js";
import { saveVector, showNewVector } from "./new-vector.js";
import { showStrip } from "./strip.js";

const views = new Map(); // turn id -> { column: AnswerView }
const running = new Set(); // AbortControllers
let waiting; // the timer of `store`
const STORED = "steer.conversation";
const IDEAS = {
  chat: ["How was your day?", "Tell me a story about the sea.", "What should I do this weekend?"],
  text: ["One day Mara woke up.", "In the evening Kofi went to the river and", "The letter began:"],
};

start();

async function start() {
  try {
    await refresh();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey(error);
    else byId("turns").replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    return;
  }
  settings.max_tokens = Math.min(settings.max_tokens, Math.floor((about.context ?? 4096) / 4));
  for (const steer of about.defaults) adopt(steer);
  if (!about.defaults.length && about.vectors.length) own(about.vectors[0].id).on = true;
  settings.mode = about.chat && !plainOnly() ? "chat" : "text";
  settings.colour = can("watch") ? about.vectors.find((entry) => entry.watch_layer !== null)?.id ?? "" : "";
  restore();
  if (!about.chat) settings.mode = "text";
  wire();
  redraw();
}

/** Read the state of the server. */
async function refresh() {
  Object.assign(about, await get("/page/state"));
  if (!about.model) about.model = (await get("/v1/models")).data[0].id;
  about.source ||= about.model;
  byId("model").textContent = about.model;
  byId("model").title = about.runs_on ?? about.model;
  document.title = `${about.model} · steer`;
}

/** Whether the steers that are on were all made from texts outside chats. */
const plainOnly = () => active().length > 0 && active().every((name) => !vector(name).read.chat);

/** Switch a default steer of the server on. */
function adopt(steer) {
  const known = vector(steer.vector);
  if (!known) return;
  const [given, usual] = [steer.coefficient, known.recommended.coefficient].map((value) => [Number.parseFloat(String(value)), String(value).endsWith("%")]);
  const absolute = given[1] !== usual[1] || !usual[0];
  Object.assign(own(steer.vector), {
    on: true, absolute, times: absolute ? given[0] : given[0] / usual[0],
    layers: !absolute && String(steer.layers) === String(known.recommended.layers) ? "" : steer.layers.join(","),
    op: steer.op === known.recommended.op ? "" : steer.op, scope: steer.scope === known.recommended.scope ? "" : steer.scope, when: steer.when ?? "",
  });
}

function askForKey(error) {
  const input = h("input", { type: "password", autocomplete: "current-password" });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", { class: "stack" }, field("API key", input, "The one that this server was started with. It stays in this tab."), problem,
    h("button", { type: "submit", class: "primary" }, "Open"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setKey(input.value);
    try {
      await get("/page/state");
      shown.close();
      start();
    } catch (refusal) { problem.textContent = refusal.message; }
  });
  const shown = dialog("This server has a key", form);
  if (sessionStorage.getItem("steer.key")) problem.textContent = error.message;
}

function wire() {
  panel.build(onSettings, { make: () => showNewVector(onMade, toMessage), save: saveVector, strip: (name) => showStrip(name, byId("message").value || lastPrompt(), take) });
  for (const input of document.querySelectorAll("#mode input")) {
    input.checked = input.value === settings.mode;
    input.disabled = input.value === "chat" && !about.chat;
    input.addEventListener("change", () => { settings.mode = input.value; redraw(); });
  }
  const message = byId("message");
  message.addEventListener("input", grow);
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  });
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running.size) stop();
    else if (message.value.trim()) send(message.value);
    else message.focus();
  });
  byId("new").addEventListener("click", () => { stop(); talk.clear(); redraw(); byId("message").focus(); });
  byId("save").addEventListener("click", saveFile);
  byId("open").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", openFile);
  byId("export").addEventListener("click", () => showExport(message.value || lastPrompt()));
  byId("toggle").addEventListener("click", () => {
    const open = document.body.classList.toggle("panel-open");
    byId("toggle").setAttribute("aria-expanded", String(open));
    if (open) byId("toggle").textContent = "Done";
    else panel.count();
    if (open) byId("panel").querySelector("button, input")?.focus();
  });
  addEventListener("pagehide", keep);
}

const lastPrompt = () => talk.path().at(-1)?.prompt ?? "";

function onSettings() {
  bar();
  if (!talk.path().length) empty();
  store();
}

/** Set a vector to a strength, and switch it on. */
function take(name, times) {
  Object.assign(own(name), { times, on: times !== 0 });
  panel.draw();
  onSettings();
}

/** A vector was made on this page: switch on it alone, in the mode of its texts. */
async function onMade(name) {
  await refresh();
  for (const entry of about.vectors) own(entry.id).on = entry.id === name;
  if (vector(name).watch_layer !== null) settings.colour = name;
  if (about.chat && vector(name).read.chat) settings.mode = "chat";
  panel.draw();
  redraw();
}

/** Put the panel away where it covers the page, and go to the message. */
function toMessage() {
  closePanel();
  byId("message").focus();
}

function closePanel() {
  document.body.classList.remove("panel-open");
  byId("toggle").setAttribute("aria-expanded", "false");
  panel.count();
}

function grow() {
  const message = byId("message");
  message.style.height = "auto";
  message.style.height = `${Math.min(message.scrollHeight + 2, 220)}px`;
}

/** The line above the conversation: the choice of colours and marks. */
function bar() {
  const parts = [];
  const readable = about.vectors.filter((entry) => entry.watch_layer !== null);
  if (can("watch") && readable.length) {
    const colours = select([["", "nothing"], ...readable.map((entry) => [entry.id, entry.id])], settings.colour, (value) => {
      settings.colour = value;
      each((view) => view.repaint());
      bar();
      store();
    }, { id: "colour" });
    parts.push(h("label", { class: "inline" }, "Colour by ", colours), settings.colour ? legend(settings.colour) : "");
  }
  parts.push(h("span", { class: "grow" }), check("Compare with unsteered", "compare"), check("Mark differences", "differences", compare));
  byId("bar").replaceChildren(...parts);
}

function check(label, name, then = () => {}) {
  const box = h("input", { type: "checkbox", checked: settings[name], on: { change: () => { settings[name] = box.checked; then(); store(); } } });
  return h("label", { class: "inline" }, box, label);
}

/** Draw the conversation. */
function redraw() {
  hide();
  bar();
  grow();
  const chat = settings.mode === "chat";
  byId("message").placeholder = chat ? "Say something" : "Write the beginning of a text";
  byId("message-label").textContent = chat ? "Message" : "Text to continue";
  for (const input of document.querySelectorAll("#mode input")) input.checked = input.value === settings.mode;
  views.clear();
  const path = talk.path();
  if (!path.length) empty();
  else byId("turns").replaceChildren(...path.map(turnElement));
  compare();
  buttons();
  store();
}

function empty() {
  const on = summary();
  const title = about.vectors.length ? "See what steering does" : "No vectors yet";
  const text = about.vectors.length
    ? on ? `The same prompt is answered twice: by the model as it is, and with ${on}. Move the slider, then send.` : "Switch a vector on at the left, then send: the same prompt is answered with it and without."
    : can("make") ? "A vector is a direction in the model that separates two kinds of text. Name the two in words, or show it a few of each." : "Start the server with --vectors FOLDER to have some.";
  const ideas = IDEAS[settings.mode].map((idea) => h("button", { type: "button", class: "idea", on: { click: () => send(idea) } }, idea));
  const make = !about.vectors.length && can("make") ? h("button", { type: "button", class: "primary", on: { click: () => showNewVector(onMade, toMessage) } }, "Make a vector") : "";
  byId("turns").replaceChildren(h("div", { class: "welcome" }, h("h2", {}, title), h("p", {}, text), make, h("div", { class: "ideas" }, ...ideas)));
}

function turnElement(turn) {
  const branch = talk.branches(turn);
  const switcher = branch.all.length > 1
    ? h("span", { class: "branches" },
      iconButton("‹", "Earlier branch", () => { branch.show(branch.at - 1); redraw(); }, branch.at === 0),
      h("span", {}, `${branch.at + 1} / ${branch.all.length}`),
      iconButton("›", "Later branch", () => { branch.show(branch.at + 1); redraw(); }, branch.at === branch.all.length - 1))
    : "";
  const tools = h("div", { class: "tools" }, switcher,
    h("button", { type: "button", class: "quiet", on: { click: () => edit(turn) } }, "Edit"),
    h("button", { type: "button", class: "quiet", on: { click: () => regenerate(turn) } }, "Regenerate"),
    h("span", { class: "muted" }, `seed ${turn.seed}`));
  const own = {};
  const answers = Object.entries(turn.answers).map(([key, answer]) => {
    own[key] = new AnswerView(answer, (index, token) => continueFrom(turn, key, index, token));
    return own[key].element;
  });
  views.set(turn.id, own);
  return h("article", { class: `turn ${turn.mode}`, "data-turn": turn.id },
    h("div", { class: "prompt" }, h("p", {}, turn.prompt), tools), h("div", { class: "columns", "data-n": answers.length }, ...answers));
}

const iconButton = (sign, label, click, disabled) => h("button", { type: "button", class: "quiet", "aria-label": label, disabled, on: { click } }, sign);

function each(action) {
  for (const own of views.values()) for (const view of Object.values(own)) action(view);
}

/** Mark what steering changed, in all visible turns. */
function compare() {
  for (const own of views.values()) {
    for (const [key, view] of Object.entries(own)) if (key !== "unsteered") view.compare(own.unsteered?.answer);
  }
}

function send(prompt, parent = undefined, seed = settings.seed) {
  let columns;
  try { columns = talk.columns(); } catch (error) { announce(error.message); problem(error.message); return; }
  const turn = talk.add(prompt, parent, seed);
  for (const column of columns) turn.answers[column.key] = talk.blank(column);
  byId("message").value = "";
  closePanel();
  run(turn, columns.map((column) => column.key));
}

function problem(text) {
  byId("turns").append(h("p", { class: "problem", role: "alert" }, text));
}

/** Request answers of a turn, all at the same time. */
async function run(turn, keys) {
  redraw();
  byId("turns").lastElementChild?.scrollIntoView({ block: "start", behavior: "smooth" });
  const controller = new AbortController();
  running.add(controller);
  buttons();
  announce("Writing.");
  let last = 0;
  const onChange = (answer) => {
    const own = views.get(turn.id);
    const view = own && Object.values(own).find((candidate) => candidate.answer === answer);
    if (!view) return;
    view.update();
    if (performance.now() - last > 250 || answer.state === "done") {
      last = performance.now();
      compare();
    }
  };
  await Promise.all(keys.map((key) => talk.write(turn, key, onChange, controller.signal)));
  running.delete(controller);
  compare();
  buttons();
  store();
  const words = keys.map((key) => turn.answers[key]).map((answer) => answer.error ?? `${answer.label}: ${answer.tokens.length} tokens${answer.cost ? `, ${answer.cost.word}` : ""}`);
  announce(words.join(". "));
}

function stop() {
  for (const controller of running) controller.abort();
}

function buttons() {
  byId("send").textContent = running.size ? "Stop" : settings.mode === "chat" ? "Send" : "Continue";
}

/** Answer the same message with another seed and the present settings, as a branch. */
function regenerate(turn) {
  const seeds = talk.branches(turn).all.map((id) => talk.turnOf(id).seed);
  const mode = settings.mode;
  settings.mode = turn.mode;
  send(turn.prompt, turn.parent, Math.max(...seeds) + 1);
  settings.mode = mode;
}

/** Change a message, as a branch. */
function edit(turn) {
  const text = h("textarea", { rows: 4, value: turn.prompt });
  const form = h("form", { class: "stack" }, field("The message of the new branch", text), h("button", { type: "submit", class: "primary" }, "Send"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!text.value.trim()) return;
    shown.close();
    send(text.value, turn.parent, turn.seed);
  });
  const shown = dialog("Edit", form);
}

/** Continue an answer from another token, in a branch with the same other answers. */
function continueFrom(turn, key, index, token) {
  const answer = turn.answers[key];
  const ids = answer.tokens.slice(0, index).map((before) => before.id);
  if (ids.some((id) => id === null)) { problem("This answer does not say which tokens it has: regenerate it first."); return; }
  const branch = talk.add(turn.prompt, turn.parent, turn.seed);
  branch.mode = turn.mode;
  Object.assign(branch.answers, turn.answers);
  branch.answers[key] = talk.blank(answer.column, [...ids, token.id]);
  run(branch, [key]);
}

function saveFile() {
  const url = URL.createObjectURL(new Blob([talk.fileText()], { type: "application/json" }));
  const link = h("a", { href: url, download: "conversation.steer.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function openFile() {
  const input = byId("file");
  const file = input.files[0];
  input.value = "";
  if (!file) return;
  try {
    const note = talk.load(await file.text());
    settings.mode = about.chat ? settings.mode : "text";
    panel.draw();
    redraw();
    if (note) problem(note);
  } catch (error) { problem(error.message); }
}

/** Store the conversation for a reload of this tab, after a pause in the changes. */
function store() {
  clearTimeout(waiting);
  waiting = setTimeout(keep, 500);
}

function keep() {
  try { sessionStorage.setItem(STORED, talk.fileText()); } catch { /* too much, or not allowed: it is not kept */ }
}

function restore() {
  let text = null;
  try { text = sessionStorage.getItem(STORED); } catch { return; }
  if (!text) return;
  try {
    if (talk.load(text)) talk.clear();
  } catch { talk.clear(); }
}
