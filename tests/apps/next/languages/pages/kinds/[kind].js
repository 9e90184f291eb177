export const getStaticPaths = () => ({ paths: [], fallback: 'blocking' });
export const getStaticProps = ({ params, locale }) => ({
  props: { text: `kind:${params.kind}:${locale}` },
  revalidate: 3600,
});

export default function Page({ text }) {
  return <p>{text}</p>;
}
