// Cookies, and `NextRequest` and `NextResponse` as a `proxy.js` of Next.js has them.
(function (host, web) {
  // A value that cannot be decoded is ignored, as in Next.js.
  const decode = (text) => {
    try {
      return decodeURIComponent(text);
    } catch {
      return undefined;
    }
  };
  const parse = (header) => {
    const cookies = new Map();
    for (const part of (header ?? '').split(/; */)) {
      const at = part.indexOf('=');
      if (part === '') continue;
      if (at < 0) cookies.set(part, 'true');
      else {
        const value = decode(part.slice(at + 1));
        if (value !== undefined) cookies.set(part.slice(0, at), value);
      }
    }
    return cookies;
  };
  const nameOf = (nameOrCookie) => (typeof nameOrCookie === 'object' && nameOrCookie !== null ? nameOrCookie.name : String(nameOrCookie));

  // Cookies of a request; changes are written to its headers.
  class RequestCookies {
    #headers;

    constructor(headers) {
      this.#headers = headers;
    }

    #all() {
      return parse(this.#headers.get('cookie'));
    }

    #write(cookies) {
      if (cookies.size === 0) return this.#headers.delete('cookie');
      const pairs = [...cookies].map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
      this.#headers.set('cookie', pairs.join('; '));
    }

    get size() {
      return this.#all().size;
    }

    get(nameOrCookie) {
      const name = nameOf(nameOrCookie);
      const cookies = this.#all();
      return cookies.has(name) ? { name, value: cookies.get(name) } : undefined;
    }

    getAll(nameOrCookie) {
      const all = [...this.#all()].map(([name, value]) => ({ name, value }));
      return nameOrCookie === undefined ? all : all.filter(({ name }) => name === nameOf(nameOrCookie));
    }

    has(nameOrCookie) {
      return this.#all().has(nameOf(nameOrCookie));
    }

    set(nameOrCookie, value) {
      const cookies = this.#all();
      cookies.set(nameOf(nameOrCookie), String(typeof nameOrCookie === 'object' ? nameOrCookie.value : value));
      this.#write(cookies);
      return this;
    }

    delete(names) {
      const cookies = this.#all();
      const removed = (Array.isArray(names) ? names : [names]).map((name) => cookies.delete(nameOf(name)));
      this.#write(cookies);
      return Array.isArray(names) ? removed : removed[0];
    }

    clear() {
      this.#headers.delete('cookie');
      return this;
    }

    [Symbol.iterator]() {
      return [...this.#all()].map(([name, value]) => [name, { name, value }])[Symbol.iterator]();
    }

    toString() {
      return this.#headers.get('cookie') ?? '';
    }
  }

  const setCookieOf = (cookie) => {
    const text = [`${cookie.name}=${encodeURIComponent(cookie.value ?? '')}`, `Path=${cookie.path ?? '/'}`];
    const expires = cookie.maxAge ? Date.now() + cookie.maxAge * 1000 : cookie.expires;
    if (expires || expires === 0) {
      text.push(`Expires=${(typeof expires === 'number' ? new Date(expires) : expires).toUTCString()}`);
    }
    if (typeof cookie.maxAge === 'number') text.push(`Max-Age=${cookie.maxAge}`);
    if (cookie.domain) text.push(`Domain=${cookie.domain}`);
    if (cookie.secure) text.push('Secure');
    if (cookie.httpOnly) text.push('HttpOnly');
    if (cookie.sameSite) text.push(`SameSite=${cookie.sameSite === true ? 'strict' : cookie.sameSite}`);
    if (cookie.partitioned) text.push('Partitioned');
    if (cookie.priority) text.push(`Priority=${cookie.priority}`);
    return text.join('; ');
  };

  // Cookies that a response sets. Each name is set once, and the last value replaces earlier ones.
  class ResponseCookies {
    #headers;

    constructor(headers) {
      this.#headers = headers;
    }

    #parsed() {
      return this.#headers.getSetCookie().map((line) => {
        const first = line.split(';', 1)[0];
        const at = first.indexOf('=');
        return { name: first.slice(0, at), value: decode(first.slice(at + 1)) ?? first.slice(at + 1), line };
      });
    }

    get(nameOrCookie) {
      const found = this.#parsed().findLast(({ name }) => name === nameOf(nameOrCookie));
      return found && { name: found.name, value: found.value };
    }

    getAll(nameOrCookie) {
      const all = this.#parsed().map(({ name, value }) => ({ name, value }));
      return nameOrCookie === undefined ? all : all.filter(({ name }) => name === nameOf(nameOrCookie));
    }

    has(nameOrCookie) {
      return this.get(nameOrCookie) !== undefined;
    }

    set(nameOrCookie, value, options) {
      const cookie = typeof nameOrCookie === 'object' ? nameOrCookie : { name: String(nameOrCookie), value: String(value), ...options };
      const others = this.#parsed().filter(({ name }) => name !== cookie.name);
      this.#headers.delete('set-cookie');
      for (const { line } of others) this.#headers.append('set-cookie', line);
      this.#headers.append('set-cookie', setCookieOf(cookie));
      return this;
    }

    delete(nameOrCookie, options) {
      const cookie = typeof nameOrCookie === 'object' ? nameOrCookie : { name: String(nameOrCookie), ...options };
      return this.set({ ...cookie, value: '', expires: new Date(0) });
    }

    toString() {
      return this.#headers.getSetCookie().join('; ');
    }
  }

  class NextURL extends URL {
    get locale() {
      return '';
    }

    get basePath() {
      return '';
    }

    clone() {
      return new NextURL(this.href);
    }
  }

  class NextResponse extends Response {
    #cookies;
    // The effect on the request: respond, continue or rewrite.
    #outcome = { kind: 'respond' };

    get cookies() {
      return (this.#cookies ??= new ResponseCookies(this.headers));
    }

    static json(value, init) {
      const { status, headers } = super.json(value, init);
      return new NextResponse(JSON.stringify(value), { status, headers });
    }

    static redirect(url, init) {
      const status = typeof init === 'number' ? init : (init?.status ?? 307);
      if (![301, 302, 303, 307, 308].includes(status)) {
        throw new RangeError('Failed to execute "redirect" on "response": Invalid status code');
      }
      const headers = new Headers(init?.headers);
      headers.set('location', new URL(url).href);
      return new NextResponse(null, { ...(typeof init === 'object' ? init : {}), headers, status });
    }

    static #continuing(outcome, init) {
      const response = new NextResponse(null, init);
      response.#outcome = { ...outcome, request: init?.request?.headers && new Headers(init.request.headers) };
      return response;
    }

    static next(init) {
      return NextResponse.#continuing({ kind: 'next' }, init);
    }

    static rewrite(url, init) {
      return NextResponse.#continuing({ kind: 'rewrite', url: new URL(url).href }, init);
    }

    static outcome(response) {
      return response instanceof NextResponse ? response.#outcome : { kind: 'respond' };
    }
  }
  web.outcomeOf = NextResponse.outcome;
  delete NextResponse.outcome;

  web.cookiesOf = (headers) => new RequestCookies(headers);
  web.responseCookiesOf = (headers) => new ResponseCookies(headers);

  // Query parameter of the router's requests for data (`rsc`). It is no part of the page's URL, so
  // `proxy.js` does not see it.
  const RSC_PARAMETER = '_rsc';
  web.nextUrlOf = (url, headers) => {
    const next = new NextURL(url);
    if (headers.has('rsc') && next.searchParams.has(RSC_PARAMETER)) next.searchParams.delete(RSC_PARAMETER);
    return next;
  };

  // Sets the headers from which the router in the browser learns the target of a rewrite.
  web.setRewriteHeaders = (url, request, to, response) => {
    if (!request.has('rsc')) return;
    const [from, target] = [web.nextUrlOf(url, request), new URL(to)];
    if (target.pathname !== from.pathname) response.set('x-nextjs-rewritten-path', target.pathname);
    if (target.search !== from.search && target.search !== '') response.set('x-nextjs-rewritten-query', target.search.slice(1));
  };
  globalThis.NextResponse = NextResponse;
});
