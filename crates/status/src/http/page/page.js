// Keeps the status page up to date, and sends its forms without leaving it.
'use strict';

const notice = document.getElementById('notice');
const live = document.getElementById('live');
const main = document.querySelector('main[data-stream]');

/** While the pointer is down nothing is replaced: a click needs the same button at its end. */
let isHeld = false;
const waiting = new Map();
/** The sections as they were put in last. */
const shown = new Map();

/** Replaces the content of a section, and keeps focus, open details and scrolled tables. */
function replace(id, html) {
  const section = document.getElementById(id);
  if (!section) return;
  if (shown.get(id) === html) {
    waiting.delete(id);
    return;
  }
  const selection = getSelection();
  const isSelecting = selection && !selection.isCollapsed && section.contains(selection.anchorNode);
  if (isHeld || isSelecting) {
    waiting.set(id, html);
    return;
  }
  waiting.delete(id);
  const keyed = (key) => [...section.querySelectorAll('[data-key]')].find((element) => element.dataset.key === key);
  const active = section.contains(document.activeElement) ? document.activeElement : null;
  const focused = (active?.closest('[data-key]') ?? active?.parentElement?.closest('[data-key]'))?.dataset.key;
  const isSummary = active?.tagName === 'SUMMARY';
  const open = [...section.querySelectorAll('details[open][data-key]')].map((details) => details.dataset.key);
  const scrolled = [...section.querySelectorAll('.wide')].map((box) => box.scrollLeft);
  section.innerHTML = html;
  shown.set(id, html);
  section.hidden = html === '';
  for (const key of open) keyed(key)?.setAttribute('open', '');
  section.querySelectorAll('.wide').forEach((box, index) => {
    box.scrollLeft = scrolled[index] ?? 0;
  });
  if (focused) {
    const element = keyed(focused);
    (isSummary ? element?.querySelector('summary') : element)?.focus({ preventScroll: true });
  }
}

function flush() {
  for (const [id, html] of [...waiting]) replace(id, html);
}

document.addEventListener('pointerdown', () => {
  isHeld = true;
});
for (const end of ['pointerup', 'pointercancel']) {
  document.addEventListener(end, () =>
    // The click comes after this.
    setTimeout(() => {
      isHeld = false;
      flush();
    }, 50),
  );
}
document.addEventListener('selectionchange', () => {
  if (getSelection()?.isCollapsed) flush();
});

function say(text) {
  notice.textContent = text;
  notice.className = 'bad';
  notice.hidden = false;
}

/** Takes the sections of a page, and leaves the rest of this one. */
function takeSections(page) {
  for (const section of page.querySelectorAll('[data-live]')) replace(section.id, section.innerHTML);
}

/** Takes notice and sections from the page that a form led to. */
async function take(response) {
  if (!response.headers.get('content-type')?.startsWith('text/html')) {
    say(await refusal(response));
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), 'text/html');
  const result = page.getElementById('notice');
  if (!result) {
    location.assign('/login');
    return;
  }
  notice.className = '';
  notice.innerHTML = result.innerHTML;
  notice.hidden = result.hidden;
  takeSections(page);
  followAgain();
  notice.scrollIntoView({ block: 'nearest' });
}

/** Returns the message of a response with an error as JSON. */
async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  return error?.message ?? `The gateway responded with status ${response.status}.`;
}

document.addEventListener('submit', async (event) => {
  const form = event.target;
  // A field may have the name of a property, which it then hides.
  const [method, action] = [form.getAttribute('method'), form.getAttribute('action')];
  if (method !== 'post' || 'plain' in form.dataset || !notice) return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(form, event.submitter));
  const all = body.get('kind') === 'all' && action.endsWith('/purge');
  if (all && !confirm('Purge everything that is stored?')) return;
  if (event.submitter) event.submitter.disabled = true;
  try {
    await take(await fetch(action, { method: 'POST', body, headers: { accept: 'text/html' } }));
  } catch {
    say('The gateway could not be reached, so it is not known whether this was done: try again.');
  } finally {
    if (event.submitter) event.submitter.disabled = false;
  }
});

const tail = document.querySelector('form[data-tail]');
const requests = document.getElementById('requests');
const filterProblem = document.getElementById('filter-problem');
const MAX_REQUESTS = 100;
const columns = [...document.querySelectorAll('#tail th')].map((header) => header.textContent);

/** Makes the row of a request, as the server makes those that the page begins with. */
function requestRow(request) {
  const row = document.createElement('tr');
  const status = request.status || 499;
  const why = [request.reason, request.cache, request.cache_why].filter(Boolean).join(' ');
  const cells = [
    [request.time.slice(11, 23)],
    [status, status >= 500 ? 'number bad' : 'number'],
    [`${request.method} ${request.host}${request.path}`, 'target'],
    [request.route ?? '–'],
    [request.total_ms.toFixed(1), 'number'],
    [why],
    [request.client],
    [[request.failed_backend, request.backend].filter(Boolean).join(', ')],
  ];
  for (const [index, [text, style]] of cells.entries()) {
    const cell = row.insertCell();
    cell.textContent = text;
    cell.dataset.label = columns[index];
    if (style) cell.className = style;
  }
  return row;
}

tail?.addEventListener('submit', (event) => {
  event.preventDefault();
  source.close();
  follow(chosen());
});

/** Returns the query of the filter, as it is typed. */
function chosen() {
  const query = new URLSearchParams([...new FormData(tail)].filter(([, value]) => value.trim() !== ''));
  query.set('n', MAX_REQUESTS / 2);
  return query;
}

if (tail && [...chosen()].length === 1) tail.closest('details').open = false;

let source;
/** The query of the present stream. */
let followed;
/** Time at which the connection was lost. */
let lost;

/** Begins again: a stream sends what has changed since its own start, and not since a form. */
function followAgain() {
  if (!source || source.readyState === EventSource.CLOSED) return;
  source.close();
  follow(followed);
}

function follow(query) {
  filterProblem.hidden = true;
  followed = query;
  source = new EventSource(`${main.dataset.stream}?${query}`);
  source.addEventListener('requests', ({ data }) => {
    requests.prepend(...JSON.parse(data).reverse().map(requestRow));
    while (requests.rows.length > MAX_REQUESTS) requests.deleteRow(-1);
  });
  const own = source;
  source.addEventListener('open', () => {
    // The stream begins with the latest ones again.
    requests.replaceChildren();
    lost = undefined;
    mark('live', 'good');
  });
  source.addEventListener('unfollowed', ({ data }) => mark(`live, but ${data}`, 'bad'));
  source.addEventListener('section', ({ data }) => {
    const { id, html } = JSON.parse(data);
    replace(id, html);
    if (id === main.querySelector('h1').closest('section').id) mark(live.textContent, live.className);
  });
  source.addEventListener('error', async () => {
    if (own !== source) return;
    lost ??= new Date().toLocaleTimeString();
    mark(`not connected since ${lost}: these are the last figures`, 'bad');
    // The browser connects again by itself, unless it got a refusal.
    if (source.readyState !== EventSource.CLOSED) return;
    const { problem, isLoggedOut, page } = await reason(query).catch(() => ({}));
    // Another filter may have been chosen meanwhile.
    if (own !== source) return;
    if (problem !== undefined) {
      filterProblem.textContent = problem;
      filterProblem.hidden = false;
    } else if (isLoggedOut) {
      location.assign('/login?why=session_missing');
    } else {
      if (page) takeSections(page);
      setTimeout(() => {
        if (own === source) follow(query);
      }, 5000);
    }
  });
}

/**
 * Finds out why a stream was refused: a `problem` of its filter, or `isLoggedOut`. Otherwise it may
 * be accepted later, and the present `page` stands in for it.
 */
async function reason(query) {
  // A script cannot see the refusal of a stream. This has the same parser.
  const requests = await fetch(`/v1/requests?${query}`);
  if (requests.status === 400) return { problem: await refusal(requests) };
  const response = await fetch('/status', { headers: { accept: 'text/html' } });
  if (new URL(response.url).pathname === '/login') return { isLoggedOut: true };
  if (!response.ok) return {};
  return { page: new DOMParser().parseFromString(await response.text(), 'text/html') };
}

/** Says whether the page is up to date. What is not is dimmed, and the title of the tab says so. */
function mark(text, style) {
  live.textContent = text;
  live.className = style;
  const isOld = text.startsWith('not connected');
  main.classList.toggle('is-old', isOld);
  document.title = `edgeway · ${isOld ? 'not connected' : main.querySelector('h1').textContent}`;
}

if (main) follow(chosen());
// A link for one use.
document.querySelector('form[data-auto]')?.submit();
