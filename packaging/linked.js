// The libraries that the program contains, as cargo names them: no dependencies of tests or of build
// scripts alone.
'use strict';

const { execFileSync } = require('node:child_process');

const target = 'x86_64-unknown-linux-gnu';

/** Packages of the registry that are linked in, by name and version. */
exports.libraries = () => {
  const metadata = JSON.parse(
    execFileSync(
      process.env.CARGO ?? 'cargo',
      ['metadata', '--locked', '--format-version', '1', '--filter-platform', target],
      { maxBuffer: 1 << 28, encoding: 'utf8' },
    ),
  );
  const packages = new Map(metadata.packages.map((found) => [found.id, found]));
  const nodes = new Map(metadata.resolve.nodes.map((node) => [node.id, node]));
  const linked = new Set();
  const open = [metadata.resolve.root];
  while (open.length > 0) {
    const id = open.pop();
    if (linked.has(id)) continue;
    linked.add(id);
    for (const dependency of nodes.get(id).deps) {
      const isMacro = packages.get(dependency.pkg).targets.some((t) => t.kind.includes('proc-macro'));
      if (!isMacro && dependency.dep_kinds.some((kind) => kind.kind === null)) open.push(dependency.pkg);
    }
  }
  const key = (found) => `${found.name} ${found.version}`;
  return [...linked]
    .map((id) => packages.get(id))
    .filter((found) => found.source)
    .sort((a, b) => (key(a) < key(b) ? -1 : 1));
};
