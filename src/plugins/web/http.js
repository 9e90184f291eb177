// `Request` and `Response` of the Fetch standard, as far as hooks have them.
(function (host, web) {
  const NO_BODY = [204, 205, 304];

  // What a body is made of, as text or bytes, and the type that it then has.
  web.bodyFrom = (body) => {
    if (body === undefined || body === null) return [null];
    if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return [web.bytes(body)];
    if (body instanceof FormData) throw new TypeError('a form is sent as `new URLSearchParams([...form])`, and not as FormData');
    const isForm = body instanceof URLSearchParams;
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
        throw new RangeError(`${status} is no status of an answer`);
      }
      if (body !== null && NO_BODY.includes(status)) {
        throw new TypeError(`an answer of status ${status} has no body`);
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
      if (text === undefined) throw new TypeError('this cannot be written as JSON');
      const headers = new Headers(init?.headers);
      if (!headers.has('content-type')) headers.set('content-type', 'application/json');
      return new this(text, { ...init, headers });
    }

    static redirect(url, status = 302) {
      if (![301, 302, 303, 307, 308].includes(status)) {
        throw new RangeError(`${status} is no status of a redirect`);
      }
      return new this(null, { status, headers: { location: String(url) } });
    }

    get bodyUsed() {
      return this.#isUsed;
    }

    #take() {
      if (this.#isUsed) throw new TypeError('the body of this answer has been read');
      this.#isUsed = this.#body !== null;
      return this.#body ?? '';
    }

    async text() {
      const body = this.#take();
      return typeof body === 'string' ? body : new TextDecoder().decode(body);
    }

    async json() {
      return JSON.parse(await this.text());
    }

    async arrayBuffer() {
      const body = this.#take();
      return typeof body === 'string' ? new TextEncoder().encode(body).buffer : web.bytes(body).slice().buffer;
    }

    static body(response) {
      return response.#body;
    }
  }
  // An answer that came, whose status may have no body.
  web.fetched = (status, pairs, body) => new Response(NO_BODY.includes(status) ? null : body, { status, headers: pairs });
  web.bodyOf = Response.body;
  delete Response.body;

  // The request under way.
  class HookRequest {
    #call;
    #headers;
    // What few hooks ask for: each field costs every one of them.
    #more;

    constructor(call) {
      this.#call = call;
    }

    get #kept() {
      return (this.#more ??= {});
    }

    get #body() {
      return (this.#kept.reader ??= web.bodyReader(this.#call, () => this.headers));
    }

    static call(request) {
      return request.#call;
    }

    get body() {
      return this.#body.body();
    }

    get bodyUsed() {
      return this.#body.isUsed;
    }

    async text() {
      return this.#body.text();
    }

    async json() {
      return JSON.parse(this.#body.text());
    }

    async arrayBuffer() {
      return this.#body.arrayBuffer();
    }

    async formData() {
      return this.#body.formData();
    }

    get method() {
      return host.fact(this.#call, 0);
    }

    get url() {
      return host.fact(this.#call, 1);
    }

    get ip() {
      return host.fact(this.#call, 2);
    }

    get headers() {
      return (this.#headers ??= web.headersOf(this.#call, 0));
    }

    get cookies() {
      return (this.#kept.cookies ??= web.cookiesOf(this.headers));
    }

    get nextUrl() {
      return (this.#kept.nextUrl ??= web.nextUrlOf(this.url, this.headers));
    }
  }
  web.callOf = HookRequest.call;
  delete HookRequest.call;
  globalThis.NextRequest = HookRequest;

  // The answer under way.
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
      return (this.#headers ??= web.headersOf(this.#call, 1));
    }

    get cookies() {
      return (this.#cookies ??= web.responseCookiesOf(this.headers));
    }
  }

  web.requestOf = (call) => new HookRequest(call);
  web.responseOf = (call, status) => new HookResponse(call, status);
  globalThis.Response = Response;
});
