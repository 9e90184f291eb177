/// <reference path="./modules.d.ts" />

// Types of Edgeway plugins, which docs/plugins.md explains.

type Awaitable<T> = T | Promise<T>;

/** Any value that JSON can represent. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Cookie {
  name: string;
  value: string;
}

/** Attributes of a cookie that a response sets. */
export interface CookieOptions {
  domain?: string;
  expires?: Date | number;
  httpOnly?: boolean;
  /** In seconds. */
  maxAge?: number;
  partitioned?: boolean;
  /** `/` if absent. */
  path?: string;
  priority?: 'low' | 'medium' | 'high';
  sameSite?: true | 'strict' | 'lax' | 'none';
  secure?: boolean;
}

/** Cookies of a request; changes are written to its headers. */
export interface RequestCookies extends Iterable<[string, Cookie]> {
  readonly size: number;
  get(name: string | { name: string }): Cookie | undefined;
  getAll(name?: string | { name: string }): Cookie[];
  has(name: string | { name: string }): boolean;
  set(name: string, value: string): this;
  set(cookie: Cookie): this;
  delete(name: string): boolean;
  delete(names: string[]): boolean[];
  clear(): this;
  toString(): string;
}

/** Cookies that a response sets. */
export interface ResponseCookies {
  get(name: string | { name: string }): Cookie | undefined;
  getAll(name?: string | { name: string }): Cookie[];
  has(name: string | { name: string }): boolean;
  set(name: string, value: string, options?: CookieOptions): this;
  set(cookie: Cookie & CookieOptions): this;
  delete(name: string, options?: CookieOptions): this;
  delete(cookie: { name: string } & CookieOptions): this;
  toString(): string;
}

/** A URL that a proxy of Next.js can copy and change. */
export interface NextURL extends URL {
  readonly basePath: string;
  readonly locale: string;
  clone(): NextURL;
}

/** Location of a client; values that the files do not have are absent. */
export interface Place {
  /** Country code of two letters: `DE`. */
  readonly country?: string;
  readonly continent?: string;
  /** Name in English. */
  readonly city?: string;
  /** Code of ISO 3166-2 without the country: `BY`. */
  readonly region?: string;
  readonly latitude?: number;
  readonly longitude?: number;
  readonly timezone?: string;
  readonly asn?: number;
  readonly organization?: string;
}

/** The current request. Headers set here reach the backend. */
export interface HookRequest {
  readonly method: string;
  /** The URL as the client sees it. */
  readonly url: string;
  readonly ip: string;
  readonly headers: Headers;
  readonly cookies: RequestCookies;
  readonly nextUrl: NextURL;
  /** The body, if it is JSON or a form and the configuration has `body`; otherwise `null`. */
  readonly body: Uint8Array | null;
  readonly bodyUsed: boolean;
  /** Rejects if there is a body that was not buffered. */
  text(): Promise<string>;
  json(): Promise<any>;
  arrayBuffer(): Promise<ArrayBuffer>;
  /** Parses `application/x-www-form-urlencoded`. */
  formData(): Promise<FormData>;
}

/** The current response. */
export interface HookResponse {
  status: number;
  readonly ok: boolean;
  readonly headers: Headers;
  readonly cookies: ResponseCookies;
}

/** Key-value store of the plugin. */
export interface Kv {
  get<T = Json>(key: string): Promise<T | undefined>;
  /** Stores a value for `ttl` seconds; without `ttl` it does not expire. */
  put(key: string, value: Json, options?: { ttl?: number }): Promise<void>;
  delete(key: string): Promise<void>;
  increment(key: string, by?: number, options?: { ttl?: number }): Promise<number>;
}

/** Writes to the gateway's log, with the plugin's name and the request's id. */
export interface Log {
  error(message: unknown, fields?: { [name: string]: unknown }): void;
  warn(message: unknown, fields?: { [name: string]: unknown }): void;
  info(message: unknown, fields?: { [name: string]: unknown }): void;
  debug(message: unknown, fields?: { [name: string]: unknown }): void;
}

type Labels = { [name: string]: string | number | boolean };

/** Metrics of the plugin, served with those of the gateway as `edgeway_plugin_user_…`. */
export interface Metrics {
  counter(name: string, labels?: Labels): { inc(by?: number): void };
  /** Histogram of seconds. */
  histogram(name: string, labels?: Labels): { observe(value: number): void };
}

export interface Context<Config = { [key: string]: any }> {
  readonly config: Config;
  readonly env: { readonly [name: string]: string };
  readonly kv: Kv;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly request: HookRequest;
  readonly ip: string;
  /** Claims of the token that the filter `jwt` has verified. */
  readonly jwt?: { readonly [claim: string]: Json };
  /** Location of the client, from the files of the section `geo`. */
  readonly geo?: Place;
  readonly requestId: string;
  readonly route: string;
  /** Lets work continue after the hook has ended, for at most 5 s. */
  waitUntil(promise: unknown): void;
}

/** Reason why there is no response from the backend. */
export interface Failed {
  readonly status: number;
  /** Fixed word, the same as in logs and metrics; may be empty. */
  readonly reason: string;
}

/** Outcome of a request, with the fields of the access log. */
export interface LogEntry {
  readonly id: string;
  readonly client: string;
  readonly listener: string;
  readonly method: string;
  readonly scheme: 'http' | 'https';
  readonly host: string;
  readonly path: string;
  readonly protocol: string;
  /** 0 if the client disconnected before a response. */
  readonly status: number;
  readonly bytes_in: number;
  readonly bytes_out: number;
  readonly route: string | null;
  readonly class: string;
  readonly upstream: string | null;
  readonly backend: string | null;
  readonly attempts: number;
  readonly upstream_status: number | null;
  readonly cache: string | null;
  readonly cache_why: string | null;
  readonly total_ms: number;
  readonly first_byte_ms: number | null;
  readonly upstream_ms: number | null;
  readonly reason: string | null;
  readonly limit: string | null;
  readonly user: string | null;
}

/** Additional fields for the line in the access log. */
export type LogFields = { [name: string]: string | number | boolean | null | undefined };

export type OnLog<C = any> = (entry: LogEntry, ctx: Context<C>) => Awaitable<LogFields | null | undefined | void>;
export type OnRequest<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<Response | null | undefined | void>;
export type OnCacheKey<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<string | null | undefined | void>;
export type OnRoute<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<string | null | undefined | void>;
export type OnUpstreamRequest<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<void>;
export type OnUpstreamResponse<C = any> = (response: HookResponse, ctx: Context<C>) => Awaitable<void>;
export type OnResponse<C = any> = (response: HookResponse, ctx: Context<C>) => Awaitable<void>;
export type OnError<C = any> = (failed: Failed, ctx: Context<C>) => Awaitable<Response | null | undefined | void>;

/** Condition on a request beside its path; `value` is a regular expression for the whole value. */
export type MatcherCondition =
  | { type: 'header' | 'cookie' | 'query'; key: string; value?: string }
  | { type: 'host'; key?: undefined; value: string };

export interface MatcherEntry {
  source: string;
  /** All of these must match, … */
  has?: MatcherCondition[];
  /** … and none of these. */
  missing?: MatcherCondition[];
}

/** Export `config`: selects the requests of the plugin, as in Next.js. */
export interface ProxyConfig {
  matcher?: string | MatcherEntry | (string | MatcherEntry)[];
  /** Accepted for compatibility with Next.js, without effect. */
  runtime?: string;
  regions?: string | string[];
  unstable_allowDynamic?: string | string[];
}

interface NextResponseInit extends ResponseInit {
  request?: { headers?: Headers };
}

/** Constructor and static methods of `NextResponse`, as in Next.js. */
interface NextResponseConstructor {
  new (body?: BodyInit | null, init?: ResponseInit): NextResponse;
  readonly prototype: NextResponse;
  json(value: any, init?: ResponseInit): NextResponse;
  redirect(url: string | URL, init?: number | ResponseInit): NextResponse;
  /** Rewrites to another path of the same host. */
  rewrite(url: string | URL, init?: NextResponseInit): NextResponse;
  next(init?: NextResponseInit): NextResponse;
}

declare global {
  interface NextResponse extends Response {
    readonly cookies: ResponseCookies;
  }
  /** Available without an import; `next/server` exports it too. */
  var NextResponse: NextResponseConstructor;
}
