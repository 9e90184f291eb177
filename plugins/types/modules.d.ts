// Modules that are built into the gateway. This file has no imports: with one, the declarations
// would only extend existing modules.

declare module 'next/server' {
  export const NextResponse: typeof globalThis.NextResponse;
  export type NextResponse = globalThis.NextResponse;
  export const NextRequest: abstract new () => import('./plugin.d.ts').HookRequest;
  export type NextRequest = import('./plugin.d.ts').HookRequest;
  /** Type of a proxy's second argument: `ctx`, which has `waitUntil`. */
  export type NextFetchEvent = import('./plugin.d.ts').Context;
  export type NextProxy = (request: NextRequest, event: NextFetchEvent) => Response | null | undefined | void | Promise<Response | null | undefined | void>;
  export type NextMiddleware = NextProxy;
  export type ProxyConfig = import('./plugin.d.ts').ProxyConfig;
  export type MiddlewareConfig = ProxyConfig;
}

/** Module that `edgeway plugin test` provides to tests. */
declare module 'edgeway:test' {
  type Ask = Request | string | URL;

  interface CallContext {
    ip?: string;
    requestId?: string;
    route?: string;
    /** Claims, for `ctx.jwt`. */
    jwt?: object;
    /** Location of the client, for `ctx.geo`. */
    geo?: object;
    /** The request, for hooks that get a response. */
    request?: Ask;
  }

  interface Done {
    /** The plugin's own response. */
    response?: Response;
    /** Target of a rewrite. */
    rewrite?: string;
    /** Return value of `onCacheKey`, `onRoute` or `onLog`. */
    value?: any;
    /** The request as it is forwarded. */
    request: Request;
    /** Status and headers of the current response, with the changes of the hook. */
    status?: number;
    headers: Headers;
    console: { level: 'error' | 'warn' | 'info' | 'debug'; text: string }[];
    /** CPU time and elapsed time in milliseconds. */
    cpu: number;
    wall: number;
  }

  /** Result of the plugin's `fetch`: a response, or the error for which there is none. */
  interface FetchResponse {
    status?: number;
    headers?: { [name: string]: string };
    body?: string;
    /** The body as JSON, instead of `body`. */
    json?: unknown;
    error?: string;
  }

  interface Loaded {
    /** Names of the hooks that the plugin exports. */
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

  /** Loads the plugin as a route does: `file`, or `./plugin.js` if absent. */
  export function plugin(options?: { file?: string; config?: object; env?: { [name: string]: string }; fetch?: { [url: string]: FetchResponse | FetchResponse[] } }): Loaded;

  type Expected = RegExp | (new (...values: any[]) => Error) | ((error: any) => boolean) | { [key: string]: unknown };

  export const assert: {
    (value: unknown, message?: string): asserts value;
    ok(value: unknown, message?: string): asserts value;
    /** Compares with `Object.is`. */
    equal(actual: unknown, expected: unknown, message?: string): void;
    notEqual(actual: unknown, expected: unknown, message?: string): void;
    deepEqual(actual: unknown, expected: unknown, message?: string): void;
    match(text: unknown, expression: RegExp, message?: string): void;
    throws(run: () => unknown, expected?: Expected | string, message?: string): void;
    rejects(what: Promise<unknown> | (() => Promise<unknown>), expected?: Expected | string, message?: string): Promise<void>;
  };
}
