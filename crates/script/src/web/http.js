// `Request` and `Response` of the Fetch standard, with the members that hooks can use.
(function (host, web) {
  const NO_BODY = [204, 205, 304];
  const { fact } = host;
  const { headersOf, callOfHeaders } = web;

  // Converts a body to text or bytes, and returns it with its default content type.
  web.bodyFrom = (body) => {
    if (body === undefined || body === null) return [null];
    if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return [web.bytes(body).slice()];
    if (body instanceof FormData) throw new TypeError('FormData cannot be sent: use `new URLSearchParams([...form])`');
    const isForm = body instanceof URLSearchParams;
    if (typeof body === 'object' && !isForm) {
      throw new TypeError('a body must be text or bytes: convert an object with `Response.json(…)` or `JSON.stringify(…)`');
    }
    return [String(body).toWellFormed(), isForm ? 'application/x-www-form-urlencoded;charset=UTF-8' : 'text/plain;charset=UTF-8'];
  };

  class Response {
    #status;
    #body;
    #headers;
    #isUsed = false;

    constructor(body = null, init = {}) {
      const status = init?.status ?? 200;
      if (!Number.isInteger(status) || status < 200 || status > 599) {
        throw new RangeError(`invalid response status ${status}`);
      }
      if (body !== null && NO_BODY.includes(status)) {
        throw new TypeError(`a response of status ${status} cannot have a body`);
      }
      this.#status = status;
      this.#headers = new Headers(init?.headers);
      const [content, type] = web.bodyFrom(body);
      this.#body = content;
      if (type !== undefined && !this.#headers.has('content-type')) this.#headers.set('content-type', type);
    }

    get status() {
      return this.#status;
    }

    get ok() {
      return this.#status >= 200 && this.#status < 300;
    }

    get headers() {
      return this.#headers;
    }

    static json(value, init = {}) {
      const text = JSON.stringify(value);
      if (text === undefined) throw new TypeError('the value cannot be converted to JSON');
      const headers = new Headers(init?.headers);
      if (!headers.has('content-type')) headers.set('content-type', 'application/json');
      return new this(text, { ...init, headers });
    }

    static redirect(url, status = 302) {
      if (![301, 302, 303, 307, 308].includes(status)) {
        throw new RangeError(`invalid redirect status ${status}`);
      }
      return new this(null, { status, headers: { location: URL.parse(url)?.href ?? String(url) } });
    }

    get bodyUsed() {
      return this.#isUsed;
    }

    #consume() {
      if (this.#isUsed) throw new TypeError('the body of this response has already been read');
      this.#isUsed = this.#body !== null;
      return this.#body ?? '';
    }

    async text() {
      const body = this.#consume();
      return typeof body === 'string' ? body : new TextDecoder().decode(body);
    }

    async json() {
      return JSON.parse(await this.text());
    }

    async arrayBuffer() {
      const body = this.#consume();
      return typeof body === 'string' ? new TextEncoder().encode(body).buffer : web.bytes(body).slice().buffer;
    }

    static body(response) {
      return response.#body;
    }
  }
  // Returns the response to a `fetch`. Its body is left out if the status forbids one.
  web.fetched = (status, pairs, body) => new Response(NO_BODY.includes(status) ? null : body, { status, headers: pairs });
  web.bodyOf = Response.body;
  delete Response.body;

  // The current request. Two private fields and no private method: each object of the engine has
  // room for two, and each further one costs as much as reading a header.
  let callOf;
  let cachedOf;
  let readerOf;
  class HookRequest {
    // Headers, or the number of the call until they are first read.
    #headersOrCall;
    // Properties that few hooks read.
    #cached;

    constructor(call) {
      if (typeof call !== 'number') {
        throw new TypeError('NextRequest cannot be created: use `NextResponse.next({ request: { headers } })` to change the request');
      }
      this.#headersOrCall = call;
    }

    // Refused: a clone would change the same headers, and has its own in the Fetch standard.
    clone() {
      throw new TypeError('request.clone() is not available: copy its headers with `new Headers(request.headers)`');
    }

    static {
      callOf = (request) => (typeof request.#headersOrCall === 'number' ? request.#headersOrCall : callOfHeaders(request.#headersOrCall));
      cachedOf = (request) => (request.#cached ??= {});
      readerOf = (request) => (cachedOf(request).reader ??= web.bodyReader(callOf(request), () => request.headers));
    }

    get body() {
      return readerOf(this).body();
    }

    get bodyUsed() {
      return readerOf(this).isUsed;
    }

    async text() {
      return readerOf(this).text();
    }

    async json() {
      return JSON.parse(readerOf(this).text());
    }

    async arrayBuffer() {
      return readerOf(this).arrayBuffer();
    }

    async formData() {
      return readerOf(this).formData();
    }

    get method() {
      return fact(callOf(this), 0);
    }

    get url() {
      return fact(callOf(this), 1);
    }

    get ip() {
      return fact(callOf(this), 2);
    }

    get headers() {
      if (typeof this.#headersOrCall === 'number') this.#headersOrCall = headersOf(this.#headersOrCall, 0);
      return this.#headersOrCall;
    }

    get cookies() {
      return (cachedOf(this).cookies ??= web.cookiesOf(this.headers));
    }

    get nextUrl() {
      return (cachedOf(this).nextUrl ??= web.nextUrlOf(this.url, this.headers));
    }
  }
  web.callOf = callOf;
  globalThis.NextRequest = HookRequest;

  // The current response.
  class HookResponse {
    #call;
    #headers;
    #status;
    #cookies;

    constructor(call, status) {
      this.#call = call;
      this.#status = status;
    }

    get status() {
      return this.#status;
    }

    set status(status) {
      host.status(this.#call, status);
      this.#status = status;
    }

    get ok() {
      return this.#status >= 200 && this.#status < 300;
    }

    get headers() {
      return (this.#headers ??= headersOf(this.#call, 1));
    }

    get cookies() {
      return (this.#cookies ??= web.responseCookiesOf(this.headers));
    }
  }

  web.requestOf = (call) => new HookRequest(call);
  web.responseOf = (call, status) => new HookResponse(call, status);
  globalThis.Response = Response;
});
