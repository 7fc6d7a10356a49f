// The playground: asks /v1/route for the decision, then /v1/chat/completions for the answer, and /decisions for both.
// Whatever comes from a server is put in as text, never as markup.

const POLL_MS = 2000;
const MOST_ANSWER_CHARACTERS = 100_000; // what the page holds of one answer
const MOST_LINE_CHARACTERS = 1_000_000; // of a stream's line: more is no chat chunk
const MOST_TOKENS = 1_000_000;
const NO_CHUNK = "The model's server sent what is no part of an answer.";
const BROKEN = "The answer broke off before its end.";
const NO_STREAM = "The model's server answered with JSON where a stream was asked for.";

const WHY = {
  decided: "The policy sends that label to this model.",
  cached: "The same prompt was decided before, and the decision was remembered.",
  manual: "The request named the model itself.",
  passthrough: "The request named the model itself, and no policy was asked.",
  low_confidence: "The classifier was less sure than the policy wants, so the model for such prompts answers.",
  empty_prompt: "There is no text to judge, so the policy's fallback answers.",
  decision_timeout: "The classifier did not answer in time, so the policy's fallback answers.",
  triton_paused: "The classifier missed several deadlines and is left alone for a moment, so the policy's fallback answers.",
  triton_unavailable: "The classifier cannot be reached or does not serve this policy's model, so the policy's fallback answers.",
  decision_failed: "The classifier gave no decision, so the policy's fallback answers.",
  no_llm_for_label: "The policy has no model for this label, so its fallback answers.",
  target_unavailable: "The chosen model is not there, so the next one in its line answers.",
  upstream_overloaded: "The chosen model has too much to do, so the next one in its line answers.",
  context_length: "The prompt is too long for the chosen model, so the next one in its line answers.",
};
const GOOD_REASONS = ["decided", "cached", "manual", "passthrough"];

const byId = (id) => document.getElementById(id);
const page = Object.fromEntries(
  ["ask", "key-field", "key", "prompt", "policy", "other", "max-tokens", "send", "stop", "error", "status", "runs",
    "run-template", "recent", "recent-note", "policies", "models", "decisions"].map((id) => [id, byId(id)]));

/** An element with text in it. */
function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// Figures as people read them

const milliseconds = (ms) =>
  ms === null || ms === undefined ? "–" : ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s`
    : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
const percent = (share) => `${(share * 100).toFixed(1)} %`;
const count = (number) => number.toLocaleString("en");

// Requests

/** What the gateway, or what is behind it, says went wrong. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Like fetch, with the client's key. Raises Refusal for an error's status and for a gateway that is not there. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const key = page.key.value.trim();
  if (!/^[\x21-\x7e]*$/.test(key)) throw new Refusal(401, "The key holds characters that no key has.");
  if (key) headers.authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The gateway cannot be reached. Is it running?");
  }
  if (answer.ok) return answer;
  throw new Refusal(answer.status, messageOf(await answer.text().catch(() => ""), answer.status));
}

const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

/** The message of an error in OpenAI's shape, else its status. */
function messageOf(text, status) {
  try {
    const { error, message } = JSON.parse(text);
    return String(error?.message ?? error ?? message ?? `HTTP ${status}`).slice(0, 1000);
  } catch {
    return `HTTP ${status}`;
  }
}

/** The data of a stream's events, one by one. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Refusal(0, BROKEN); // the connection was cut
      });
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r/);
      rest = lines.pop();
      if (rest.length > MOST_LINE_CHARACTERS) throw new Refusal(0, NO_CHUNK);
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {}); // nothing after an error is of use
  }
}

/** One event of an answer. Raises Refusal for what is none, or is an error. */
function chunkOf(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Refusal(0, NO_CHUNK);
  }
  if (chunk?.error) throw new Refusal(0, messageOf(data, 500));
  return chunk ?? {};
}

// Errors

function clearErrors() {
  page.error.replaceChildren();
  for (const field of [page.prompt, page["max-tokens"], page.key]) field.removeAttribute("aria-invalid");
}

function showError(message, field = null) {
  page.error.append(element("p", "", message));
  if (field === null) return;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

/** An error of a request; a missing key leads to its field. */
function showRefusal(error, prefix = "") {
  const needsKey = error.status === 401;
  if (needsKey) page["key-field"].hidden = false;
  showError(prefix + (error instanceof Refusal ? error.message : `The page failed: ${error.message}`),
    needsKey ? page.key : null);
}

// One policy's run: its card

/** The card of one run, which shows what is known so far. */
class Card {
  constructor(policyName) {
    this.root = page["run-template"].content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find(".policy").textContent = policyName;
    this.find(".scores").setAttribute("aria-label", `Scores of ${policyName}`);
    this.find(".answer").setAttribute("aria-label", `Answer under ${policyName}`);
    this.find(".model strong").textContent = "…";
    this.text = document.createTextNode("");
    this.find(".answer").append(this.text);
    this.answerLength = 0;
    this.times = {};
  }

  showDecision(decision) {
    this.times.decision = decision.decision_ms;
    if (decision.policy) this.find(".policy").textContent = decision.policy;
    this.find(".model strong").textContent = decision.model;
    if (decision.label) this.addChip(decision.label, "label");
    this.addChip(decision.reason, GOOD_REASONS.includes(decision.reason) ? "good" : "warn");
    this.find(".why").textContent = whyOf(decision);
    showScores(this.find(".scores"), decision);
    showFigures(this.find(".facts"), factsOf(decision));
    this.find(".decided").hidden = decision.scores === null && decision.win_rate === null;
    this.showTimes();
  }

  /** Who answers, when it is another one than was decided. */
  showAnswerer(headers, decision) {
    const model = headers.get("x-routellm-routed-model");
    const reason = headers.get("x-router-reason");
    if (!model || model === decision.model) return;
    this.find(".model strong").textContent = model;
    this.addChip(reason, "warn");
    this.find(".why").textContent += ` ${WHY[reason] ?? ""} Chosen was ${decision.model}.`;
  }

  addChip(text, kind) {
    const item = document.createElement("li");
    item.append(element("span", `chip ${kind}`, text));
    this.find(".chips").append(item);
  }

  showTimes() {
    const { decision, firstByte, whole } = this.times;
    const all = (decision ?? 0) + (whole ?? firstByte ?? 0);
    const parts = { ".decision": decision, ".wait": firstByte, ".stream": (whole ?? firstByte) - firstByte };
    for (const [selector, part] of Object.entries(parts))
      this.find(`.timeline ${selector}`).style.width = all && part ? `${(part / all) * 100}%` : "0";
    showFigures(this.find(".times"), [
      ["Decision", decision === null ? "remembered" : milliseconds(decision), "decision"],
      ["First byte", milliseconds(firstByte), "wait"],
      ["Whole answer", milliseconds(whole), "stream"],
    ]);
    this.find(".timing").hidden = false;
  }

  begin() {
    this.find(".answering").hidden = false;
    this.find(".answer").setAttribute("aria-busy", "true");
  }

  add(text) {
    const answer = this.find(".answer");
    const atEnd = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 8;
    const room = MOST_ANSWER_CHARACTERS - this.answerLength;
    this.text.appendData(text.slice(0, Math.max(0, room)));
    this.answerLength += text.length;
    if (atEnd) answer.scrollTop = answer.scrollHeight;
  }

  showUsage(usage) {
    const cut = this.answerLength > MOST_ANSWER_CHARACTERS ? ` Only the first ${count(MOST_ANSWER_CHARACTERS)} characters are shown.` : "";
    const told = [[usage?.prompt_tokens, "in"], [usage?.completion_tokens, "out"]]
      .filter(([tokens]) => Number.isFinite(tokens)) // a server may write anything there
      .map(([tokens, way], index) => `${count(tokens)}${index ? "" : " tokens"} ${way}`)
      .join(", ");
    this.find(".usage").textContent = (told ? `${told}.` : "The model did not say how many tokens.") + cut;
  }

  end(chip = null) {
    this.find(".answer").setAttribute("aria-busy", "false");
    if (chip) this.addChip(chip, chip === "stopped" ? "" : "bad");
    if (this.find(".model strong").textContent === "…") this.find(".model strong").textContent = "No model";
  }
}

/** Why this model, in a sentence. */
function whyOf(decision) {
  const said = WHY[decision.reason] ?? `The gateway's reason is ${decision.reason}.`;
  if (decision.win_rate === null || decision.threshold === null)
    return decision.label ? `The prompt was judged to be ${decision.label}. ${said}` : said;
  const compared = decision.win_rate >= decision.threshold ? "is not below" : "is below";
  const rates = `The strong model's win rate of ${decision.win_rate.toFixed(3)} ${compared} the threshold of ${decision.threshold.toFixed(3)}: the ${decision.label} model answers.`;
  return decision.reason === "decided" ? rates : `${rates} ${said}`;
}

function factsOf(decision) {
  const facts = [];
  if (decision.confidence !== null) facts.push(["Confidence", percent(decision.confidence)]);
  if (decision.strong_share !== null) facts.push(["Strong share lately", percent(decision.strong_share)]);
  if (decision.tokens_read !== null) {
    const cut = decision.tokens_in_prompt - decision.tokens_read;
    facts.push(["Tokens in prompt", count(decision.tokens_in_prompt)], ["Tokens read", count(decision.tokens_read)]);
    facts.push(["Tokens cut", decision.prompt_cut ? `${count(cut)}, and more` : count(cut)]);
  }
  return facts;
}

/** A list of names and figures; a third part is the colour that the timeline has for it. */
function showFigures(list, figures) {
  list.replaceChildren(...figures.map(([name, figure, colour]) => {
    const pair = document.createElement("div");
    const term = element("dt", "", "");
    if (colour) term.append(element("i", colour));
    term.append(name);
    pair.append(term, element("dd", "", figure));
    return pair;
  }));
}

/** The scores of labels, highest first, or a win rate against its threshold. */
function showScores(list, decision) {
  if (decision.win_rate !== null) {
    const row = bar("win rate", decision.win_rate, decision.win_rate.toFixed(3), true);
    if (decision.threshold !== null) {
      const mark = element("span", "threshold");
      mark.style.left = `${decision.threshold * 100}%`;
      row.querySelector(".track").append(mark);
      list.replaceChildren(row, bar("threshold", decision.threshold, decision.threshold.toFixed(3), false));
    } else list.replaceChildren(row);
    return;
  }
  const scores = Object.entries(decision.scores ?? {}).sort(([, a], [, b]) => b - a);
  const most = Math.max(1, ...scores.map(([, score]) => score)); // some models' scores are no probabilities
  list.replaceChildren(...scores.map(([label, score]) => bar(label, score / most, score.toFixed(3), label === decision.label)));
}

function bar(name, share, value, chosen) {
  const row = element("li", chosen ? "chosen" : "");
  const track = element("span", "track");
  track.setAttribute("aria-hidden", "true");
  const fill = element("span", "fill");
  fill.style.width = `${Math.min(1, Math.max(0, share)) * 100}%`;
  track.append(fill);
  row.append(element("span", "", name), track, element("span", "value", value));
  return row;
}

// Running

let running = null; // the AbortController of what is under way

/** One policy: the decision, then the answer as it comes. Raises what fetch raises, and Refusal. */
async function run(policy, card, request, signal) {
  const body = { ...request, model: "", "nim-llm-router": { policy } };
  const decision = await (await post("v1/route", body, signal)).json();
  card.showDecision(decision);
  const start = performance.now();
  const answer = await post("v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  card.showAnswerer(answer.headers, decision);
  if (answer.headers.get("content-type")?.startsWith("application/json")) {
    answer.body?.cancel().catch(() => {}); // else it would hold its connection
    throw new Refusal(0, NO_STREAM);
  }
  card.begin();
  // Without a cache the chat was decided once more. That is taken off: the decision is shown once, as of one request.
  const decidedAgain = Number(answer.headers.get("x-router-decision-ms")) || 0;
  const elapsed = () => Math.max(0, performance.now() - start - decidedAgain);
  let usage = null;
  let ended = false;
  for await (const data of events(answer.body)) {
    if (card.times.firstByte === undefined) {
      card.times.firstByte = elapsed();
      card.showTimes();
    }
    if (data === "[DONE]") {
      ended = true;
      continue; // to the end of the body: else the gateway would note a client that left
    }
    const chunk = chunkOf(data);
    const delta = chunk.choices?.[0]?.delta;
    const text = delta?.content ?? delta?.reasoning_content;
    if (typeof text === "string") card.add(text);
    usage = chunk.usage ?? usage;
  }
  card.times.whole = elapsed();
  card.showTimes();
  card.showUsage(usage);
  if (!ended) throw new Refusal(0, BROKEN);
}

/** What one run came to: a few words for the status. Never raises. */
async function runSafely(policy, card, request, signal, prefix) {
  try {
    await run(policy, card, request, signal);
    card.end();
    return `${card.find(".model strong").textContent} answered`;
  } catch (error) {
    const stopped = signal.aborted;
    card.end(stopped ? "stopped" : "failed");
    if (!stopped) showRefusal(error, prefix);
    return stopped ? "stopped" : "failed";
  }
}

async function send() {
  stop();
  clearErrors();
  const prompt = page.prompt.value;
  const maxTokens = Number(page["max-tokens"].value);
  if (!prompt.trim()) return showError("Type a prompt first.", page.prompt);
  if (!Number.isInteger(maxTokens) || maxTokens < 1 || maxTokens > MOST_TOKENS)
    return showError(`Max tokens: expected a whole number from 1 to ${count(MOST_TOKENS)}.`, page["max-tokens"]);
  const controller = (running = new AbortController());
  page.stop.disabled = false;
  const request = { messages: [{ role: "user", content: prompt }], max_tokens: maxTokens };
  const chosen = [page.policy, ...(page.other.value === "none" ? [] : [page.other])];
  const cards = chosen.map((select) => new Card(select.selectedOptions[0].textContent));
  page.runs.replaceChildren(...cards.map((card) => card.root));
  page.status.textContent = "Sent …";
  const done = await Promise.all(cards.map((card, index) => {
    const name = chosen[index].selectedOptions[0].textContent;
    return runSafely(chosen[index].value, card, request, controller.signal, cards.length > 1 ? `${name}: ` : "");
  }));
  if (running !== controller) return; // another one has begun meanwhile
  page.status.textContent = `Done: ${done.join("; ")}.`;
  rest();
}

/** Nothing runs any more: focus does not stay on a button that can't be used. */
function rest() {
  running = null;
  if (document.activeElement === page.stop) page.prompt.focus();
  page.stop.disabled = true;
}

function stop() {
  running?.abort();
}

// Policies

async function loadPolicies() {
  const models = (await (await ask("v1/models")).json()).data;
  const names = models.filter((model) => model.owned_by === "llm-router" && model.id !== "auto").map((model) => model.id);
  fillSelect(page.policy, [["", "Default policy"], ...names.map((name) => [name, name])]);
  fillSelect(page.other, [["none", "No other policy"], ...names.map((name) => [name, name])]);
}

function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
  if (options.some(([value]) => value === before)) select.value = before;
}

// Recent decisions

const COLUMNS = [
  ["Time", (row) => new Date(row.time).toLocaleTimeString("en-GB")],
  ["Policy", (row) => row.policy],
  ["Label", (row) => row.label],
  ["Model", (row) => row.model ?? "(the client's own)"],
  ["Reason", (row) => row.reason + (row.path === "/v1/route" ? ", not sent on" : "")],
  ["Status", (row) => (row.outcome === "complete" ? row.status : row.outcome.replace("_", " "))],
  ["Decision", (row) => milliseconds(row.decision_ms), "number"],
  ["First byte", (row) => milliseconds(row.first_byte_ms), "number"],
  ["Whole", (row) => milliseconds(row.duration_ms), "number"],
  ["Tokens read", (row) => (row.tokens_read === null ? null : `${count(row.tokens_read)} of ${count(row.tokens_in_prompt)}`), "number"],
  ["In / out", (row) => (row.input_tokens === null ? null : `${count(row.input_tokens)} / ${count(row.output_tokens)}`), "number"],
];
let shown = "";
let timer = null;

/** Shows the recent decisions, and asks again as long as the page is seen and they are there. */
async function poll() {
  clearTimeout(timer);
  if (document.visibilityState !== "visible") return;
  try {
    showRecent(await (await ask("decisions")).text());
  } catch (error) {
    if (error.status === 401) page["key-field"].hidden = false;
    page["recent-note"].textContent =
      error.status === 404 ? "They are on the gateway's management port: /decisions there."
        : error.status === 401 ? "They need a client key."
          : "The gateway cannot be asked for them now; trying again.";
    if (error.status === 404 || error.status === 401) return;
  }
  clearTimeout(timer); // of another poll that was on its way at the same time
  timer = setTimeout(poll, POLL_MS);
}

function showRecent(text) {
  const { kept, decisions, policies, models } = JSON.parse(text);
  const answered = Object.values(models).reduce((sum, each) => sum + each, 0);
  page["recent-note"].textContent = kept === 0 ? "None yet." : `Of the last ${count(kept)}, ${count(answered)} went on to a model.`;
  if (text === shown) return; // nothing new: what is selected in the table stays so
  shown = text;
  page.recent.hidden = kept === 0;
  showShares(page.policies, policies);
  showShares(page.models, models);
  page.decisions.replaceChildren(...decisions.map((row) => {
    const cells = COLUMNS.map(([name, value, className]) => {
      const cell = element("td", className, value(row) ?? "–");
      cell.dataset.name = name;
      return cell;
    });
    const line = document.createElement("tr");
    line.append(...cells);
    return line;
  }));
}

function showShares(list, counts) {
  const entries = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const all = entries.reduce((sum, [, each]) => sum + each, 0);
  list.replaceChildren(...entries.map(([name, each]) => bar(name || "(the client's own)", each / all, percent(each / all), false)));
}

// Wiring

async function connect() {
  poll();
  try {
    await loadPolicies();
  } catch (error) {
    if (error.status === 401 && !page.key.value) {
      page["key-field"].hidden = false;
      page.status.textContent = "This gateway asks for a client key.";
    } else showRefusal(error);
  }
}

function useKey() {
  clearErrors();
  connect();
}

page.ask.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
page.stop.addEventListener("click", stop);
page.key.addEventListener("change", useKey);
for (const example of document.querySelectorAll(".example"))
  example.addEventListener("click", () => {
    page.prompt.value = example.textContent;
    page.prompt.focus();
  });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  } else if (event.key === "Enter" && event.target === page.key) {
    event.preventDefault(); // the key is shown first; there may be no prompt yet
    useKey();
  } else if (event.key === "Escape") stop();
});
document.addEventListener("visibilitychange", poll);

connect();
