#!/usr/bin/env node
// Runs the program of the platform's package with the same arguments.
'use strict';

const { spawn } = require('node:child_process');
const { constants } = require('node:os');
const fs = require('node:fs');
const path = require('node:path');

const { version } = require('../package.json');

function fail(...lines) {
  for (const line of lines) process.stderr.write(`edgeway: ${line}\n`);
  process.exit(1);
}

/** Compares versions such as `2.35` by their numbers. */
function isOlder(version, than) {
  const [a, b] = [version, than].map((text) => text.split('.').map(Number));
  return (a[0] - b[0] || (a[1] ?? 0) - (b[1] ?? 0)) < 0;
}

/** Version of the system's glibc; undefined for another libc. */
function glibc() {
  // A report looks up the names of all network peers otherwise.
  process.report.excludeNetwork = true;
  return process.report.getReport().header.glibcVersionRuntime;
}

/** Path of the program. */
function program() {
  if (process.env.EDGEWAY_BINARY) return process.env.EDGEWAY_BINARY;
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64') {
    fail(
      `there is no program for ${platform}: Edgeway runs on Linux on x86-64`,
      'on this machine, run it in a container or a virtual machine; on Linux, you can set EDGEWAY_BINARY to a program that you have built',
    );
  }
  const name = `@edgeway/${platform}`;
  const found = glibc();
  // Before the package: older versions of npm install it on such a system as well.
  if (!found) {
    fail(
      'there is no program for this system: Edgeway needs glibc, and this system has another C library, such as musl of Alpine Linux',
      'use an image with glibc, such as node:22-slim',
    );
  }
  let manifest;
  try {
    manifest = require.resolve(`${name}/package.json`);
  } catch {
    fail(
      `the package ${name} is missing, which holds the program`,
      'it is an optional dependency: install without --omit=optional or --no-optional, and on the platform that it is to run on',
    );
  }
  const platformPackage = JSON.parse(fs.readFileSync(manifest, 'utf8'));
  if (platformPackage.version !== version) {
    fail(
      `${name} is version ${platformPackage.version}, and edgeway is ${version}: they must be the same`,
      'remove both from the lock file and install again',
    );
  }
  const floor = platformPackage.edgeway.glibc;
  if (isOlder(found, floor)) {
    fail(`glibc ${found} is too old: Edgeway needs ${floor} or newer (Debian 12, Ubuntu 22.04)`);
  }
  return path.join(path.dirname(manifest), 'bin', 'edgeway');
}

/** Command that starts this launcher: its name, unless only a package manager finds it. */
function calledAs() {
  if (!process.argv[1].split(path.sep).includes('node_modules')) return 'edgeway';
  const [manager] = (process.env.npm_config_user_agent ?? '').split('/');
  const others = { pnpm: 'pnpm exec edgeway', yarn: 'yarn edgeway', bun: 'bunx edgeway' };
  return others[manager] ?? 'npx edgeway';
}

/** True if a signal of the terminal reaches the program as well: all of its foreground group. */
function isInForeground() {
  try {
    // proc(5): the fields after the name, which may contain spaces, are state, ppid, pgrp,
    // session, tty_nr and tpgid.
    const stat = fs.readFileSync('/proc/self/stat', 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[2] === fields[5];
  } catch {
    return false;
  }
}

/** Fails if a file is no program: `execve` of Node 22 to 25 would end in a core dump. */
function assertExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    if (fs.statSync(file).isFile()) return;
  } catch (error) {
    fail(`cannot run ${file}: ${error.message}`);
  }
  fail(`cannot run ${file}: it is not a file`);
}

function run(file, args) {
  assertExecutable(file);
  if (process.execve) {
    // Node 22.15: the program takes the place of this process.
    try {
      process.execve(file, [file, ...args], process.env);
    } catch {
      // Not on this platform, or not in this kind of process.
    }
  }
  // Listened to before the program starts: a signal in between would end the launcher alone. Events
  // are delivered when this function has returned, so `child` is there.
  let child;
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']) {
    process.on(signal, () => {
      // A second Ctrl-C would end the gateway before its requests are finished.
      if ((signal === 'SIGINT' || signal === 'SIGQUIT') && isInForeground()) return;
      child.kill(signal);
    });
  }
  child = spawn(file, args, { stdio: 'inherit' });
  child.on('error', (error) => fail(`cannot run ${file}: ${error.message}`));
  child.on('exit', (status, signal) => {
    if (signal === null) process.exit(status);
    // Ends in the same way, so that a shell or a supervisor sees the reason.
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
    // A signal that Node ignores.
    setTimeout(() => process.exit(128 + constants.signals[signal]), 100);
  });
}

// The program names itself so in its hints.
process.env.EDGEWAY_CALLED_AS ??= calledAs();
run(program(), process.argv.slice(2));
