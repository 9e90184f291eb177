// Makes a Next.js app with the newest `create-next-app`, takes it through the steps of the guide
// (docs/guides/nextjs.md) and builds it, into `app`: `build.mjs`.
//
// The steps are the guide's own blocks of code, so that guide and test cannot differ: the commands of
// its section "Build", and each block that begins with the path of a file. Two files of
// `examples/nextjs` are copied where the guide says.
//
// The app is the generator's default but for `--empty`: pages of the full template load fonts from
// the internet at build time, which tests do not have.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '../../..');
const app = join(here, 'app');
const stamp = join(app, '.next/.stamp');
const guide = readFileSync(join(root, 'docs/guides/nextjs.md'), 'utf8');
const example = join(root, 'examples/nextjs');
const route = 'app/api/edgeway/revalidate/route.js';

// Preferences of whoever runs this would decide in the place of the generator's defaults.
const preferences = mkdtempSync(join(tmpdir(), 'preferences-'));
process.on('exit', () => rmSync(preferences, { recursive: true, force: true }));

function run(program, args, folder) {
  const env = { ...process.env, XDG_CONFIG_HOME: preferences, CI: '1', NEXT_TELEMETRY_DISABLED: '1' };
  return execFileSync(program, args, { cwd: folder, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}

/** Returns the newest version, or undefined without a registry. */
function newest() {
  try {
    return run('npm', ['view', 'create-next-app@latest', 'version'], here).trim();
  } catch {
    return undefined;
  }
}

/** Returns the blocks of code of a text, with their language. */
function blocks(text) {
  return [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, language, code]) => ({ language, code }));
}

function section(title) {
  const [, text] = guide.split(`\n## ${title}\n`);
  return text.split('\n## ')[0];
}

/** Writes the files that the guide shows; lines for the settings join those that are there. */
function follow() {
  for (const { code } of blocks(guide)) {
    const path = code.match(/^\/\/ ([\w./-]+\.tsx?)\n/)?.[1];
    if (!path) continue;
    const file = join(app, path);
    if (path === 'next.config.ts') {
      const settings = readFileSync(file, 'utf8');
      const grown = settings.replace(/(: NextConfig = \{\n)/, (begin) => begin + code);
      if (grown === settings) throw new Error(`no settings in ${path}:\n${settings}`);
      writeFileSync(file, grown);
    } else {
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, code);
    }
  }
  cpSync(join(example, 'edgeway.js'), join(app, 'lib/edgeway.js'), { recursive: true });
  cpSync(join(example, route), join(app, route), { recursive: true });
}

const version = newest();
if (!version && existsSync(stamp)) process.exit();
const sources = [version, process.version, guide]
  .concat([join(example, 'edgeway.js'), join(example, route), fileURLToPath(import.meta.url)].map((file) => readFileSync(file)))
  .reduce((hash, part) => hash.update(part ?? ''), createHash('sha256'))
  .digest('hex');
if (existsSync(stamp) && readFileSync(stamp, 'utf8') === sources) process.exit();

rmSync(app, { recursive: true, force: true });
const made = ['app', '--yes', '--empty', '--no-eslint', '--use-npm', '--disable-git', '--skip-install', '--no-agent-feedback'];
run('npx', ['--yes', `create-next-app@${version}`, ...made], here);
follow();
// The generator would install; the guide's `npm ci` does it here, and needs the list of versions.
run('npm', ['install', '--package-lock-only', '--no-audit', '--no-fund'], app);
const commands = blocks(section('Build')).find(({ language }) => language === 'sh').code;
run('bash', ['-euc', commands], app);
writeFileSync(stamp, sources);
