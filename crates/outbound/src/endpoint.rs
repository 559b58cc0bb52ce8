//! Endpoints of AWS services that this project calls without an SDK client.

use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_types::service_config::ServiceConfigKey;

/// Systems Manager's endpoint: `AWS_ENDPOINT_URL_SSM` or `AWS_ENDPOINT_URL` (or the profile's equivalents), otherwise the
/// region's, with `AWS_USE_FIPS_ENDPOINT` and `AWS_USE_DUALSTACK_ENDPOINT` applied.
///
/// Partitions and their suffixes come from the endpoint rules of `aws-sdk-apigatewaymanagement`. Systems Manager's rules
/// differ only in the first label, and for FIPS in GovCloud (AWS General Reference, "AWS Systems Manager endpoints and
/// quotas").
///
/// # Errors
/// No retry helps: no region is set, or its partition lacks FIPS or dual-stack endpoints.
pub async fn ssm(config: &SdkConfig) -> Result<String, EndpointError> {
    let key = ServiceConfigKey::builder()
        .service_id("SSM")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .map_err(|error| EndpointError(error.into()))?;
    let set = config.service_config().and_then(|service| service.load_config(key));
    if let Some(url) = set.or_else(|| config.endpoint_url().map(str::to_owned)) {
        return Ok(url);
    }
    let region = config.region().map(AsRef::as_ref).unwrap_or_default();
    regional(region, config.use_fips() == Some(true), config.use_dual_stack() == Some(true)).await
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
#[error("no endpoint for these settings")]
pub struct EndpointError(#[source] BoxError);

async fn regional(region: &str, fips: bool, dual_stack: bool) -> Result<String, EndpointError> {
    if region.is_empty() {
        return Err(EndpointError("no AWS region is set".into()));
    }
    // In GovCloud, all of Systems Manager's IPv4 endpoints are FIPS endpoints, under the usual name.
    let fips = fips && (dual_stack || !region.starts_with("us-gov-"));
    let params =
        Params::builder().region(region.to_owned()).use_fips(fips).use_dual_stack(dual_stack).build();
    let params = params.map_err(|error| EndpointError(error.into()))?;
    let endpoint = DefaultResolver::new().resolve_endpoint(&params).await.map_err(EndpointError)?;
    Ok(endpoint.url().replacen("//execute-api", "//ssm", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test of each kind from Systems Manager's Smithy model (`endpoint-rule-set`).
    #[tokio::test]
    async fn endpoints_are_those_of_systems_manager() {
        for (region, fips, dual_stack, url) in [
            ("eu-west-1", false, false, "https://ssm.eu-west-1.amazonaws.com"),
            ("ca-central-1", true, false, "https://ssm-fips.ca-central-1.amazonaws.com"),
            ("us-east-1", false, true, "https://ssm.us-east-1.api.aws"),
            ("us-east-1", true, true, "https://ssm-fips.us-east-1.api.aws"),
            ("cn-north-1", false, false, "https://ssm.cn-north-1.amazonaws.com.cn"),
            ("cn-north-1", true, false, "https://ssm-fips.cn-north-1.amazonaws.com.cn"),
            ("cn-north-1", false, true, "https://ssm.cn-north-1.api.amazonwebservices.com.cn"),
            ("us-gov-east-1", false, false, "https://ssm.us-gov-east-1.amazonaws.com"),
            ("us-gov-west-1", true, false, "https://ssm.us-gov-west-1.amazonaws.com"),
            ("us-gov-east-1", false, true, "https://ssm.us-gov-east-1.api.aws"),
            ("us-gov-east-1", true, true, "https://ssm-fips.us-gov-east-1.api.aws"),
            ("us-iso-east-1", false, false, "https://ssm.us-iso-east-1.c2s.ic.gov"),
            ("us-isob-east-1", true, false, "https://ssm-fips.us-isob-east-1.sc2s.sgov.gov"),
            // A region newer than the rules.
            ("eu-west-9", false, false, "https://ssm.eu-west-9.amazonaws.com"),
        ] {
            let resolved = regional(region, fips, dual_stack).await.unwrap();
            assert_eq!(resolved, url, "{region} {fips} {dual_stack}");
        }
        assert!(regional("", false, false).await.is_err());
    }
}
