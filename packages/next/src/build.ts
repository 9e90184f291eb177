// Identity of a build: two builds never read each other's entries.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Files that differ between builds; `BUILD_ID` alone is the same for all with a `deploymentId`. */
const FILES = ['BUILD_ID', 'required-server-files.json', 'routes-manifest.json', 'prerender-manifest.json'];

/** Returns a digest of what distinguishes this build; nothing if the folder has none. */
export function buildIdentity(folder: string): string | undefined {
  const digest = createHash('sha256');
  let isBuild = false;
  for (const file of FILES) {
    try {
      const content = readFileSync(join(folder, file));
      digest.update(`${file} ${content.length}\n`).update(content);
      if (file === 'BUILD_ID') isBuild = true;
    } catch {
      // A file that this version of Next.js does not write.
    }
  }
  return isBuild ? digest.digest('base64url').slice(0, 22) : undefined;
}
