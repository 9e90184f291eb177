// The launcher of the npm package: arguments, exit status, signals, and what it says where there is
// no program. Usage: EDGEWAY_PROJECT=FOLDER node --test launcher.test.js, where both packages are
// installed in FOLDER.
'use strict';

const assert = require('node:assert');
const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('node:test');

const project = process.env.EDGEWAY_PROJECT;
const launcher = path.join(project, 'node_modules/edgeway/bin/edgeway.js');
const platform = path.join(project, 'node_modules/@edgeway/linux-x64');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'launcher-'));
test.after(() => fs.rmSync(folder, { recursive: true }));

/** Runs the launcher in a Node that `preload` has changed. */
function run(args, { preload, env } = {}) {
  const options = [];
  if (preload) {
    const file = path.join(folder, 'preload.js');
    fs.writeFileSync(file, preload);
    options.push('--require', file);
  }
  const done = spawnSync(process.execPath, [...options, launcher, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  return done;
}

/** Writes an executable script. */
function script(text) {
  const file = path.join(folder, 'program');
  fs.writeFileSync(file, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return { EDGEWAY_BINARY: file };
}

test('arguments, output and exit status pass', () => {
  const env = script('for word in "$@"; do echo "<$word>"; done; echo note >&2; exit 78');
  const done = run(['a b', '', '--c=$HOME'], { env });
  assert.equal(done.stdout, '<a b>\n<>\n<--c=$HOME>\n');
  assert.equal(done.stderr, 'note\n');
  assert.equal(done.status, 78);
});

test('the program is that of the platform package', () => {
  const done = run(['--version']);
  const { version } = JSON.parse(fs.readFileSync(path.join(platform, 'package.json'), 'utf8'));
  assert.ok(done.stdout.startsWith(`edgeway ${version}`), done.stdout + done.stderr);
  assert.equal(run(['nonsense']).status, 2);
});

test('input passes', () => {
  const done = spawnSync(process.execPath, [launcher], {
    input: 'line\n', encoding: 'utf8', env: { ...process.env, ...script('cat') },
  });
  assert.equal(done.stdout, 'line\n');
});

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']) {
  test(`${signal} reaches the program`, async () => {
    const name = signal.slice(3);
    const env = script(`trap 'echo got ${name}; exit 5' ${name}; echo ready; while :; do sleep 0.05; done`);
    const child = spawn(process.execPath, [launcher], { env: { ...process.env, ...env } });
    let output = '';
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (text) => {
      if (output === '') child.kill(signal);
      output += text;
    });
    const status = await new Promise((resolve) => child.on('close', resolve));
    assert.equal(output, `ready\ngot ${name}\n`);
    assert.equal(status, 5);
  });
}

test('a program that a signal ends ends the launcher in the same way', () => {
  for (const signal of ['SIGKILL', 'SIGTERM', 'SIGSEGV']) {
    const done = run([], { env: script(`kill -${signal.slice(3)} $$`) });
    assert.equal(done.signal, signal);
  }
});

test('Ctrl-C reaches the program once', (t) => {
  if (spawnSync('script', ['--version']).status !== 0) return t.skip('no program `script`');
  // `script` makes a terminal; its line discipline turns the byte 3 into SIGINT for all of the
  // foreground group.
  const env = script(`n=0; trap 'n=$((n + 1))' INT; echo ready; i=0; while [ $i -lt 40 ]; do sleep 0.05; i=$((i + 1)); done; echo "got $n"`);
  return new Promise((resolve, reject) => {
    const child = spawn('script', ['-qec', `'${process.execPath}' '${launcher}'`, '/dev/null'], {
      env: { ...process.env, ...env },
    });
    let output = '';
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (text) => {
      if (!output.includes('ready') && (output + text).includes('ready')) {
        setTimeout(() => child.stdin.write('\x03'), 200);
      }
      output += text;
    });
    child.on('exit', () => {
      try {
        assert.match(output, /got 1/);
        resolve();
      } catch (error) { reject(error); }
    });
  });
});

test('Node with execve becomes the program', () => {
  const preload = 'process.execve = (file, args, env) => { console.log(JSON.stringify([file, args, env.MARK])); process.exit(0); };';
  const env = script('exit 1');
  const file = env.EDGEWAY_BINARY;
  const done = run(['run', '-c', 'x'], { preload, env: { ...env, MARK: '1' } });
  assert.deepEqual(JSON.parse(done.stdout), [file, [file, 'run', '-c', 'x'], '1']);
  // Where it fails, the program runs all the same.
  const broken = run([], { preload: 'process.execve = () => { throw new Error("no"); };', env: script('exit 3') });
  assert.equal(broken.status, 3);
});

test('a program that cannot be started is named', () => {
  const plain = path.join(folder, 'plain');
  fs.writeFileSync(plain, 'no program', { mode: 0o644 });
  // As `execve` of Node 22 to 25 does where the system refuses.
  for (const preload of [undefined, 'process.execve = () => process.abort();']) {
    for (const file of ['/nowhere/edgeway', plain, folder]) {
      const done = run(['run'], { preload, env: { EDGEWAY_BINARY: file } });
      assert.equal(done.status, 1, done.stderr);
      assert.ok(done.stderr.startsWith(`edgeway: cannot run ${file}: `), done.stderr);
    }
  }
});

test('other platforms are named', () => {
  for (const [name, arch] of [['darwin', 'arm64'], ['win32', 'x64'], ['linux', 'arm64']]) {
    const preload = `Object.defineProperty(process, 'platform', { value: '${name}' }); Object.defineProperty(process, 'arch', { value: '${arch}' });`;
    const done = run(['--version'], { preload });
    assert.equal(done.status, 1);
    assert.ok(done.stderr.includes(`there is no program for ${name}-${arch}: Edgeway runs on Linux on x86-64`), done.stderr);
    // A program of one's own runs.
    assert.equal(run([], { preload, env: script('exit 4') }).status, 4);
  }
});

const withGlibc = (version) =>
  `process.report.getReport = () => ({ header: { glibcVersionRuntime: ${JSON.stringify(version)} } });`;

test('a glibc that is too old is named with the one that is needed', () => {
  const { edgeway } = JSON.parse(fs.readFileSync(path.join(platform, 'package.json'), 'utf8'));
  assert.match(edgeway.glibc, /^2\.\d+$/);
  const done = run(['--version'], { preload: withGlibc('2.4') });
  assert.equal(done.status, 1);
  assert.ok(done.stderr.includes(`glibc 2.4 is too old: Edgeway needs ${edgeway.glibc} or newer`), done.stderr);
  for (const version of [edgeway.glibc, '2.100', '3.0']) {
    assert.equal(run(['--version'], { preload: withGlibc(version) }).status, 0, version);
  }
});

test('another C library is named, whether npm has installed the program or not', () => {
  const done = run(['--version'], { preload: withGlibc(undefined) });
  assert.equal(done.status, 1);
  assert.ok(done.stderr.includes('another C library, such as musl'), done.stderr);
});

test('a platform package that is missing or of another version is named', () => {
  const aside = `${platform}.aside`;
  fs.renameSync(platform, aside);
  try {
    const done = run(['--version']);
    assert.equal(done.status, 1);
    assert.ok(done.stderr.includes('the package @edgeway/linux-x64 is missing'), done.stderr);
    const musl = run(['--version'], { preload: withGlibc(undefined) });
    assert.ok(musl.stderr.includes('another C library, such as musl'), musl.stderr);
  } finally {
    fs.renameSync(aside, platform);
  }
  const manifest = path.join(platform, 'package.json');
  const before = fs.readFileSync(manifest, 'utf8');
  try {
    fs.writeFileSync(manifest, before.replace(/"version": "[^"]*"/, '"version": "9.9.9"'));
    const done = run(['--version']);
    assert.equal(done.status, 1);
    assert.ok(done.stderr.includes('@edgeway/linux-x64 is version 9.9.9, and edgeway is '), done.stderr);
  } finally {
    fs.writeFileSync(manifest, before);
  }
});
