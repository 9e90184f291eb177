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
  async rewrites() {
    const has = [{ type: 'query', key: 'slug' }];
    const other = [{ type: 'header', key: 'x-slug', value: 'to-(?<slug>.+)' }];
    return {
      beforeFiles: [{ source: '/open', destination: '/feed' }],
      afterFiles: [
        { source: '/optim/:path*', destination: '/_next/:path*' },
        { source: '/thumbnail/:name(\\d+)', destination: '/_next/image?url=/picture.png&w=64&q=75' },
        { source: '/calls/:name', destination: '/api/:name' },
        { source: '/chosen', destination: '/blog/:slug', has },
        { source: '/chosen', destination: '/blog/:slug', has: other },
        { source: '/:kind(post|entry)/(\\d+)/:slug', destination: '/articles/:slug' },
      ],
      fallback: [{ source: '/articles/:slug*', destination: '/blog/:slug*' }],
    };
  },
};
