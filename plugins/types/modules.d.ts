// Modules that the gateway has built in. (A file without imports: so they are declared, not added to.)

declare module 'next/server' {
  export const NextResponse: typeof globalThis.NextResponse;
  export type NextResponse = globalThis.NextResponse;
  export const NextRequest: abstract new () => import('./plugin.d.ts').HookRequest;
  export type NextRequest = import('./plugin.d.ts').HookRequest;
  /** The second argument of a proxy is `ctx`, which has `waitUntil`. */
  export type NextFetchEvent = import('./plugin.d.ts').Context;
  export type NextProxy = (request: NextRequest, event: NextFetchEvent) => Response | null | undefined | void | Promise<Response | null | undefined | void>;
  export type NextMiddleware = NextProxy;
  export type ProxyConfig = import('./plugin.d.ts').ProxyConfig;
  export type MiddlewareConfig = ProxyConfig;
}

/** What `edgeway plugin test` gives to tests. */
declare module 'edgeway:test' {
  type Ask = Request | string | URL;

  interface CallContext {
    ip?: string;
    requestId?: string;
    route?: string;
    /** Claims, for `ctx.jwt`. */
    jwt?: object;
    /** A place, for `ctx.geo`. */
    geo?: object;
    /** For hooks that get an answer. */
    request?: Ask;
  }

  interface Done {
    /** The plugin's own answer. */
    response?: Response;
    /** Where the request is rewritten to. */
    rewrite?: string;
    /** What `onCacheKey`, `onRoute` or `onLog` gave back. */
    value?: any;
    /** The request as it goes on. */
    request: Request;
    /** Of the answer under way, with what the hook changed. */
    status?: number;
    headers: Headers;
    console: { level: 'error' | 'warn' | 'info' | 'debug'; text: string }[];
    /** Milliseconds. */
    cpu: number;
    wall: number;
  }

  /** What `fetch` of the plugin gets: an answer, or why there is none. */
  interface FetchAnswer {
    status?: number;
    headers?: { [name: string]: string };
    body?: string;
    /** The body as JSON, in place of `body`. */
    json?: unknown;
    error?: string;
  }

  interface Loaded {
    /** The names of those that it exports. */
    hooks: string[];
    onRequest(request: Ask, context?: CallContext): Promise<Done>;
    onCacheKey(request: Ask, context?: CallContext): Promise<Done>;
    onRoute(request: Ask, context?: CallContext): Promise<Done>;
    onUpstreamRequest(request: Ask, context?: CallContext): Promise<Done>;
    onUpstreamResponse(response: Response, context?: CallContext): Promise<Done>;
    onResponse(response: Response, context?: CallContext): Promise<Done>;
    onError(failed: { status: number; reason?: string }, context?: CallContext): Promise<Done>;
    onLog(entry: { [name: string]: unknown }, context?: CallContext): Promise<Done>;
  }

  export function test(name: string, run: () => unknown): void;
  export default test;

  /** Loads the plugin as a route does: `./plugin.js` unless `file` says otherwise. */
  export function plugin(options?: { file?: string; config?: object; env?: { [name: string]: string }; fetch?: { [url: string]: FetchAnswer | FetchAnswer[] } }): Loaded;

  type Expected = RegExp | (new (...values: any[]) => Error) | ((error: any) => boolean) | { [key: string]: unknown };

  export const assert: {
    (value: unknown, message?: string): asserts value;
    ok(value: unknown, message?: string): asserts value;
    /** By `Object.is`. */
    equal(actual: unknown, expected: unknown, message?: string): void;
    notEqual(actual: unknown, expected: unknown, message?: string): void;
    deepEqual(actual: unknown, expected: unknown, message?: string): void;
    match(text: unknown, expression: RegExp, message?: string): void;
    throws(run: () => unknown, expected?: Expected | string, message?: string): void;
    rejects(what: Promise<unknown> | (() => Promise<unknown>), expected?: Expected | string, message?: string): Promise<void>;
  };
}
