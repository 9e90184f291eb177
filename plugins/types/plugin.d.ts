/// <reference path="./modules.d.ts" />

// Types of Edgeway plugins. What they mean: docs/plugins.md.


type Awaitable<T> = T | Promise<T>;

/** Anything that JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Cookie {
  name: string;
  value: string;
}

/** The attributes of a cookie that an answer sets. */
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

/** The cookies that a request brought; changes go into its head. */
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

/** The cookies that an answer sets. */
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

/** Where a client is; what the files do not say is absent. */
export interface Place {
  /** Two letters: `DE`. */
  readonly country?: string;
  readonly continent?: string;
  /** In English. */
  readonly city?: string;
  /** Of ISO 3166-2, without the country: `BY`. */
  readonly region?: string;
  readonly latitude?: number;
  readonly longitude?: number;
  readonly timezone?: string;
  readonly asn?: number;
  readonly organization?: string;
}

/** The request under way. What is set in its headers reaches the backend. */
export interface HookRequest {
  readonly method: string;
  /** As the client sees it. */
  readonly url: string;
  readonly ip: string;
  readonly headers: Headers;
  readonly cookies: RequestCookies;
  readonly nextUrl: NextURL;
  /** Where the configuration says `body`: JSON and forms; otherwise `null`. */
  readonly body: Uint8Array | null;
  readonly bodyUsed: boolean;
  /** Rejects where there is a body that was not read. */
  text(): Promise<string>;
  json(): Promise<any>;
  arrayBuffer(): Promise<ArrayBuffer>;
  /** Of `application/x-www-form-urlencoded`. */
  formData(): Promise<FormData>;
}

/** The answer under way. */
export interface HookResponse {
  status: number;
  readonly ok: boolean;
  readonly headers: Headers;
  readonly cookies: ResponseCookies;
}

/** Values under keys, the plugin's own. */
export interface Kv {
  get<T = Json>(key: string): Promise<T | undefined>;
  /** `ttl` in seconds; without it the value stays. */
  put(key: string, value: Json, options?: { ttl?: number }): Promise<void>;
  delete(key: string): Promise<void>;
  increment(key: string, by?: number, options?: { ttl?: number }): Promise<number>;
}

/** What the gateway's log gets, with the plugin's name and the request's id. */
export interface Log {
  error(message: unknown, fields?: { [name: string]: unknown }): void;
  warn(message: unknown, fields?: { [name: string]: unknown }): void;
  info(message: unknown, fields?: { [name: string]: unknown }): void;
  debug(message: unknown, fields?: { [name: string]: unknown }): void;
}

type Labels = { [name: string]: string | number | boolean };

/** Served with those of the gateway as `edgeway_plugin_user_…`. */
export interface Metrics {
  counter(name: string, labels?: Labels): { inc(by?: number): void };
  /** Of seconds. */
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
  /** The claims of the token that the filter `jwt` has verified. */
  readonly jwt?: { readonly [claim: string]: Json };
  /** Where the client is, by the files of the section `geo`. */
  readonly geo?: Place;
  readonly requestId: string;
  readonly route: string;
  /** The hook is over without it, and it goes on for 5 s at most. */
  waitUntil(promise: unknown): void;
}

/** Why there is no answer of the backend. */
export interface Failed {
  readonly status: number;
  /** A fixed word, the same as in logs and metrics; may be empty. */
  readonly reason: string;
}

/** What became of a request, as the access log says it. */
export interface LogEntry {
  readonly id: string;
  readonly client: string;
  readonly listener: string;
  readonly method: string;
  readonly scheme: 'http' | 'https';
  readonly host: string;
  readonly path: string;
  readonly protocol: string;
  /** 0 if the client left before an answer. */
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

/** What its line gets besides. */
export type LogFields = { [name: string]: string | number | boolean | null | undefined };

export type OnLog<C = any> = (entry: LogEntry, ctx: Context<C>) => Awaitable<LogFields | null | undefined | void>;
export type OnRequest<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<Response | null | undefined | void>;
export type OnCacheKey<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<string | null | undefined | void>;
export type OnRoute<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<string | null | undefined | void>;
export type OnUpstreamRequest<C = any> = (request: HookRequest, ctx: Context<C>) => Awaitable<void>;
export type OnUpstreamResponse<C = any> = (response: HookResponse, ctx: Context<C>) => Awaitable<void>;
export type OnResponse<C = any> = (response: HookResponse, ctx: Context<C>) => Awaitable<void>;
export type OnError<C = any> = (failed: Failed, ctx: Context<C>) => Awaitable<Response | null | undefined | void>;

/** What is asked of a request beside its path; `value` is a regular expression for all of it. */
export type MatcherCondition =
  | { type: 'header' | 'cookie' | 'query'; key: string; value?: string }
  | { type: 'host'; key?: undefined; value: string };

export interface MatcherEntry {
  source: string;
  /** All of them must be there, … */
  has?: MatcherCondition[];
  /** … and none of these. */
  missing?: MatcherCondition[];
}

/** The export `config`: which requests the plugin is for, as in Next.js. */
export interface ProxyConfig {
  matcher?: string | MatcherEntry | (string | MatcherEntry)[];
  /** Known from Next.js, and without meaning here. */
  runtime?: string;
  regions?: string | string[];
  unstable_allowDynamic?: string | string[];
}

interface NextResponseInit extends ResponseInit {
  request?: { headers?: Headers };
}

/** As in Next.js. */
interface NextResponseConstructor {
  new (body?: BodyInit | null, init?: ResponseInit): NextResponse;
  readonly prototype: NextResponse;
  json(value: any, init?: ResponseInit): NextResponse;
  redirect(url: string | URL, init?: number | ResponseInit): NextResponse;
  /** To another path of the same host. */
  rewrite(url: string | URL, init?: NextResponseInit): NextResponse;
  next(init?: NextResponseInit): NextResponse;
}

declare global {
  interface NextResponse extends Response {
    readonly cookies: ResponseCookies;
  }
  /** There without an import; `next/server` has it too. */
  var NextResponse: NextResponseConstructor;
}
