// Preloaded into the apps by the tests (`node --import`): a process whose starter is gone must not stay behind.
// The starter holds the other end of standard input; however it dies, the pipe closes.
process.stdin.on('end', () => process.exit(0));
process.stdin.on('error', () => process.exit(0));
process.stdin.resume();
