// Entries as bytes. Bytes that are not an entry of the expected form decode to nothing: a miss.

import type { Codec } from './store.js';

/** A stored value of the `cacheHandler`: what Next.js passed to `set`, and when. */
export interface Page {
  readonly value: Record<string, unknown> | null;
  readonly lastModified: number;
  readonly cacheControl: unknown;
}

const BYTES = ['body', 'rscData', 'buffer'];

export const PAGE: Codec<Page> = {
  encode({ value, lastModified, cacheControl }) {
    if (!value) return Buffer.from(JSON.stringify({ value, lastModified, cacheControl }));
    const plain: Record<string, unknown> = { ...value };
    const bytes: Record<string, string> = {};
    for (const name of BYTES) {
      if (value[name] instanceof Uint8Array) {
        bytes[name] = base64(value[name]);
        delete plain[name];
      }
    }
    let segments: [string, string][] | undefined;
    if (value.segmentData instanceof Map) {
      segments = [...value.segmentData].map(([name, data]) => [name, base64(data)]);
      delete plain.segmentData;
    }
    return Buffer.from(JSON.stringify({ value: plain, bytes, segments, lastModified, cacheControl }));
  },

  decode(body) {
    try {
      const { value, bytes, segments, lastModified, cacheControl } = JSON.parse(body.toString('utf8'));
      if (typeof lastModified !== 'number') return undefined;
      if (value === null) return { value, lastModified, cacheControl };
      if (typeof value !== 'object' || typeof value.kind !== 'string') return undefined;
      for (const name of BYTES) {
        if (typeof bytes[name] === 'string') value[name] = Buffer.from(bytes[name], 'base64');
      }
      if (segments) {
        value.segmentData = new Map(
          segments.map(([name, data]: [string, string]) => [name, Buffer.from(data, 'base64')]),
        );
      }
      return { value, lastModified, cacheControl };
    } catch {
      return undefined;
    }
  },
};

/** A result of a function with `use cache`. */
export interface Result {
  readonly tags: string[];
  readonly stale: number;
  readonly timestamp: number;
  readonly expire: number;
  readonly revalidate: number;
  readonly bytes: Buffer;
}

/** Four bytes with the length of the JSON, the JSON, and the value as it is. */
export const RESULT: Codec<Result> = {
  encode({ bytes, ...rest }) {
    const json = Buffer.from(JSON.stringify({ ...rest, length: bytes.length }));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(json.length);
    return Buffer.concat([length, json, bytes]);
  },

  decode(body) {
    try {
      const start = 4 + body.readUInt32BE(0);
      const { tags, stale, timestamp, expire, revalidate, length } = JSON.parse(body.toString('utf8', 4, start));
      const numbers = [stale, timestamp, expire, revalidate];
      const bytes = body.subarray(start);
      if (!Array.isArray(tags) || numbers.some((n) => typeof n !== 'number')) return undefined;
      if (bytes.length !== length) return undefined;
      return { tags, stale, timestamp, expire, revalidate, bytes };
    } catch {
      return undefined;
    }
  },
};

function base64(data: Uint8Array): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');
}
