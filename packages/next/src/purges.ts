// The purges that a revalidation means for a gateway: of the addresses of pages, and of tags.

import { encodedPath, keysOf, PATH_TAG, spellings } from './paths.js';
import { UNKNOWN_SITE, type Site } from './site.js';

/** Most purges of one revalidation. */
const MOST_PURGES = 256;

/** Longest tag of Next.js, which is that of a path. */
const LONGEST_TAG = 1024;

/** Tag of gateways for all that a rewrite of `next.config` may have led to. */
const REWRITTEN = 'edgeway:rewritten';

export interface Purge {
  readonly url?: string;
  readonly prefix?: string;
  readonly tag?: string;
  readonly all?: true;
  readonly soft?: true;
}

const ALL: Purge = { all: true };

/** Returns the purges of the responses that belong to these tags of Next.js, and of these keys of pages. */
export function purgesOf(tags: readonly string[], keys: readonly string[] = [], site: Site = UNKNOWN_SITE): Purge[] {
  if (keys.includes('*')) return [ALL];
  const named = [...tags.flatMap((tag) => purgesOfTag(tag, site)), ...keys.flatMap((key) => purgesOfKey(key, site))];
  const rewritten: Purge[] = site.hasRewrites ? [{ tag: REWRITTEN }] : [];
  const purges = new Map([...named, ...rewritten].map((purge) => [JSON.stringify(purge), purge]));
  if (purges.size > MOST_PURGES || named.some(({ all }) => all)) return [ALL];
  return [...purges.values()];
}

function purgesOfTag(tag: string, site: Site): Purge[] {
  if (tag.startsWith(PATH_TAG)) return purgesOfPathTag(tag.slice(PATH_TAG.length), site);
  // Next.js separates tags by commas in its header, so a response never has one with a comma.
  const parts = tag.split(',').map((part) => part.trim()).filter(Boolean);
  return parts.map((part) => (isSendable(part) ? { tag: part } : ALL));
}

function isSendable(tag: string): boolean {
  return tag.length <= LONGEST_TAG && !/\p{Cc}/u.test(tag);
}

function purgesOfPathTag(path: string, site: Site): Purge[] {
  const kind = /\/(page|route|layout)$/.exec(path)?.[1];
  const base = kind ? withoutGroups(path.slice(0, -kind.length - 1)) : path;
  if (base === undefined) return [ALL];
  const dynamic = base.search(/\/\[[^/]+\]/);
  if (dynamic >= 0) return purgesBelow(base.slice(0, dynamic), base.startsWith('/[[', dynamic), site);
  if (kind === 'layout') return purgesBelow(base, true, site);
  // A page may be called `page` itself, or `index`.
  const pages = [base, kind ? path : base.replace(/\/index$/, '')].map((page) => page || '/');
  return [...new Set(pages.flatMap(keysOf))].flatMap((key) => purgesOfKey(key, site));
}

/** Drops what is in no address: groups and slots; returns nothing for routes that intercept others. */
function withoutGroups(path: string): string | undefined {
  const segments = path.split('/');
  if (segments.some((segment) => segment.startsWith('(.'))) return undefined;
  return segments.filter((segment) => !/^\(.*\)$|^@/.test(segment)).join('/');
}

function purgesBelow(base: string, withItself: boolean, site: Site): Purge[] {
  if (base === '') return [ALL];
  return keysOf(base).flatMap((key) => {
    const path = encodedPath(key);
    if (!path) return [];
    const text = site.basePath + path.text;
    if (path.isPrefix) return [{ prefix: text }];
    const below = { prefix: `${text}/` };
    return withItself ? [{ url: text }, below, { prefix: `${text}?` }] : [below];
  });
}

/** The payload of a page has a query, `?_rsc=`, so a path is purged with any. */
function purgesOfKey(key: string, site: Site): Purge[] {
  if (!key.startsWith('/')) return [ALL];
  const pages = namesOf(key, site).flatMap((name) => purgesOfPage(name, site));
  return site.data ? [...pages, ...purgesOfData(key, site.data)] : pages;
}

/** The key has the locale of a page of the Pages Router, which the address may leave out. */
function namesOf(key: string, { locales }: Site): string[] {
  const locale = locales.find((name) => key === `/${name}` || key.startsWith(`/${name}/`));
  return locale === undefined ? [key] : [key, key.slice(locale.length + 1) || '/'];
}

function purgesOfPage(key: string, { basePath, hasSlash }: Site): Purge[] {
  const path = encodedPath(key);
  if (!path) return [];
  if (path.isPrefix) return [{ prefix: basePath + path.text }];
  const texts = spellings(key).map((text) => (text === '/' ? basePath || '/' : basePath + text));
  const all = texts.flatMap((text) => (hasSlash && text !== '/' ? [text, `${text}/`] : [text]));
  return all.flatMap((text) => [{ url: text }, { prefix: `${text}?` }]);
}

/** A browser that goes on to a page of the Pages Router asks for its data instead. */
function purgesOfData(key: string, data: string): Purge[] {
  const path = encodedPath(key === '/' ? '/index' : key);
  if (!path) return [];
  return [{ prefix: `${data}${path.text}${path.isPrefix ? '' : '.json'}` }];
}
