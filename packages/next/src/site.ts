// Addresses of the pages of a build: what `next.config` puts around their paths.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Site {
  readonly basePath: string;
  /** True if addresses may end with a slash. */
  readonly hasSlash: boolean;
  readonly locales: readonly string[];
  readonly defaultLocale: string | undefined;
  /** True if other addresses may lead to a page. */
  readonly hasRewrites: boolean;
  /** Path of the data of the Pages Router, if it has any. */
  readonly data: string | undefined;
  /** Secret with which the server asks itself for a page that `res.revalidate` names. */
  readonly previewId: string | undefined;
}

/** A build about which nothing is known. */
export const UNKNOWN_SITE: Site = {
  basePath: '', hasSlash: false, locales: [], defaultLocale: undefined, hasRewrites: false, data: undefined,
  previewId: undefined,
};

interface Config {
  basePath?: string;
  trailingSlash?: boolean;
  skipTrailingSlashRedirect?: boolean;
  i18n?: { locales?: string[]; defaultLocale?: string } | null;
}

interface Routes {
  rewrites?: unknown;
  dataRoutes?: unknown[];
}

interface Prerendered {
  preview?: { previewModeId?: string };
}

/** Reads what the build in this folder says about addresses. */
export function siteOf(folder: string): Site {
  const config = read<{ config?: Config }>(folder, 'required-server-files.json')?.config ?? {};
  const routes = read<Routes>(folder, 'routes-manifest.json');
  const basePath = config.basePath ?? '';
  return {
    basePath,
    hasSlash: Boolean(config.trailingSlash || config.skipTrailingSlashRedirect),
    locales: config.i18n?.locales ?? [],
    defaultLocale: config.i18n?.defaultLocale,
    hasRewrites: hasAny(routes?.rewrites),
    data: routes?.dataRoutes?.length ? dataPath(folder, basePath) : undefined,
    previewId: read<Prerendered>(folder, 'prerender-manifest.json')?.preview?.previewModeId,
  };
}

/** Rewrites are one list, or three by the time at which they apply. */
function hasAny(rewrites: unknown): boolean {
  if (Array.isArray(rewrites)) return rewrites.length > 0;
  return Object.values(rewrites ?? {}).some(hasAny);
}

function dataPath(folder: string, basePath: string): string | undefined {
  const id = text(folder, 'BUILD_ID')?.trim();
  return id ? `${basePath}/_next/data/${encodeURIComponent(id)}` : undefined;
}

function read<T>(folder: string, file: string): T | undefined {
  const content = text(folder, file);
  try {
    return content === undefined ? undefined : (JSON.parse(content) as T);
  } catch {
    return undefined;
  }
}

function text(folder: string, file: string): string | undefined {
  try {
    return readFileSync(join(folder, file), 'utf8');
  } catch {
    return undefined;
  }
}
