// Requests to the server. An API key stays in this tab.

let key = "";
try { key = sessionStorage.getItem("steer.key") || ""; } catch { /* no storage: the page asks again */ }

export function setKey(value) {
  key = value;
  try { sessionStorage.setItem("steer.key", value); } catch { /* kept in memory alone */ }
}

/** A refusal, in the words of the server. param: the field at fault. */
export class Refused extends Error {
  constructor(message, status = 0, code = null, param = null) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

async function ask(path, options = {}) {
  let answer;
  const headers = { ...(key ? { authorization: `Bearer ${key}` } : {}), ...(options.body ? { "content-type": "application/json" } : {}) };
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is steer still running?");
  }
  if (!answer.ok) {
    let reason = null;
    try { reason = (await answer.json()).error; } catch { /* no JSON */ }
    throw new Refused(reason?.message || `The server answered ${answer.status}.`, answer.status, reason?.code, reason?.param);
  }
  return answer;
}

export const get = async (path) => (await ask(path)).json();
export const post = async (path, body, signal) => (await ask(path, { method: "POST", body: JSON.stringify(body), signal })).json();

/** The events of a streamed answer, each parsed. */
export async function* stream(path, body, signal) {
  const answer = await ask(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message, 0, event.error.code, event.error.param);
      yield event;
    }
  }
}
