// Preloaded into the apps by the tests (`node --import`), so that an app ends with the test that
// started it. The test holds the other end of standard input: however it ends, the pipe closes.
process.stdin.on('end', () => process.exit(0));
process.stdin.on('error', () => process.exit(0));
process.stdin.resume();
