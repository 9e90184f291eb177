/** @type {import('next').NextConfig} */
export default {
  poweredByHeader: true,
  reactStrictMode: true,
  // The app is inside the gateway's repository: file tracing must not include its parent folders.
  turbopack: { root: import.meta.dirname },
  outputFileTracingRoot: import.meta.dirname,
  images: { imageSizes: [64, 128], deviceSizes: [640, 1080], formats: ['image/avif', 'image/webp'] },
  async redirects() {
    return [{ source: '/old', destination: '/isr', permanent: true }];
  },
};
