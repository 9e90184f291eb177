/** @type {import('next').NextConfig} */
export default {
  // The app is inside the gateway's repository: file tracing must not include its parent folders.
  outputFileTracingRoot: import.meta.dirname,
  // No test requests an image of this app.
  images: { unoptimized: true },
};
