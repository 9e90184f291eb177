/** @type {import('next').NextConfig} */
export default {
  // What a visitor gets depends on headers, cookies and hosts, of which no response says a word.
  i18n: {
    locales: ['en', 'de', 'fr'],
    defaultLocale: 'en',
    domains: [
      { domain: 'shop.test', defaultLocale: 'en', http: true },
      { domain: 'laden.test', defaultLocale: 'de', http: true },
    ],
  },
  basePath: process.env.BASE,
  distDir: process.env.BASE ? '.next/based' : '.next/plain',
  outputFileTracingRoot: `${import.meta.dirname}/..`,
  // The cache that builds of this app share (tests/apps/build.sh).
  experimental: { turbopackFileSystemCacheForBuild: true },
  turbopack: { root: `${import.meta.dirname}/..` },
  async redirects() {
    const has = [{ type: 'cookie', key: 'moved', value: 'yes' }];
    return [{ source: '/plain', destination: '/other', permanent: false, has }];
  },
  async rewrites() {
    const beta = [{ type: 'cookie', key: 'beta' }];
    const kind = [{ type: 'header', key: 'x-kind', value: '(?<kind>.+)' }];
    const agent = [{ type: 'header', key: 'x-old' }];
    return {
      beforeFiles: [
        { source: '/plain', destination: '/kinds/:kind', has: kind },
        { source: '/tried', destination: '/beta', has: beta },
        { source: '/left', destination: '/beta', missing: agent },
      ],
      afterFiles: [{ source: '/begun/:page*', destination: '/ended/:page*' }],
      fallback: [{ source: '/ended/:page*', destination: '/:page*' }],
    };
  },
  async headers() {
    const has = [{ type: 'header', key: 'x-mark' }];
    const origin = [{ type: 'header', key: 'origin', value: '(?<origin>.+)' }];
    const allowed = [{ key: 'access-control-allow-origin', value: ':origin' }];
    return [
      { source: '/:page', has, headers: [{ key: 'x-marked', value: 'yes' }] },
      // Files of the build for pages of other hosts.
      { source: '/_next/static/:path*', locale: false, has: origin, headers: allowed },
    ];
  },
};
