export const getStaticProps = ({ locale }) => ({ props: { locale }, revalidate: 3600 });

export default function Page({ locale }) {
  return <p>{`account:${locale}`}</p>;
}
