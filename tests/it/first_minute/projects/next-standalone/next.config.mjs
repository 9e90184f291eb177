/** @type {import('next').NextConfig} */
export default {
  // output: 'export',
  output: 'standalone',
};
